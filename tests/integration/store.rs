//! Object stores, by the one that needs no server: a folder.

use std::path::Path;

use multidigit::progress::Progress;
use multidigit::store::Store;

/// More than the size of the pieces in which objects are fetched.
const LARGE: u64 = 40 << 20;

fn store(home: &Path) -> Store<'static> {
    Store::open(&format!("file://{}/deep", home.display()), Progress::silent()).unwrap()
}

#[test]
fn objects_are_put_once_and_read_back() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    assert_eq!(store.list("data").unwrap(), []);
    assert_eq!(store.read("data/one").unwrap(), None);
    for _ in 0..2 {
        store.put("data/one", b"1".to_vec()).unwrap();
    }
    let error = store.put("data/one", b"2".to_vec()).unwrap_err().to_string();
    assert!(
        error.contains("deep/data/one`: another object; expected none, or one of the same bytes; give another address"),
        "{error}"
    );
    let mut uploads = store.uploads();
    for number in 0..20 {
        let objects = vec![(format!("data/more/{number}"), vec![number]), (format!("more/{number}"), vec![])];
        uploads.begin(objects).unwrap();
    }
    uploads.finish().unwrap();
    let mut listed = store.list("data").unwrap();
    listed.sort();
    assert_eq!((listed.len(), &listed[0]), (21, &("more/0".to_owned(), 1)));
    let names: Vec<String> = (0..40).map(|number| format!("data/more/{number}")).collect();
    let read = store.read_all(&names).unwrap();
    assert!(read.iter().take(20).enumerate().all(|(number, bytes)| *bytes == Some(vec![number as u8])));
    assert!(read.iter().skip(20).all(Option::is_none));
    for _ in 0..2 {
        store.remove_all(&["data/one".to_owned()]).unwrap();
    }
    assert_eq!(store.read("data/one").unwrap(), None);
}

#[test]
fn an_object_is_fetched_in_pieces() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let bytes: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    store.put("plan", bytes.clone()).unwrap();
    let (back, mut told) = (home.path().join("back"), 0);
    let tell = |bytes| {
        told += bytes;
        Ok(())
    };
    store.fetch("plan", LARGE, &back, tell).unwrap();
    assert_eq!((std::fs::read(&back).unwrap() == bytes, told), (true, LARGE));
}

#[test]
fn an_address_is_that_of_a_store_and_holds_no_credentials() {
    let refusal = |address: &str| {
        Store::open(address, Progress::silent()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    for address in ["s3://KEY:secret@bucket/x", "s3://KEY@bucket", "gs://bucket/x?token=secret", "s3://b/x#secret"] {
        let said = refusal(address);
        assert!(said.contains("credentials come from the environment"), "{said}");
        assert!(!said.contains("secret") && !said.contains("KEY"), "{said}");
    }
    for address in
        ["ftp://host/x", "memory:///x", "https://example.com/x", "s3://", "s3:/b/x", "s3://b//x", "file://rel/x", "://"]
    {
        assert!(refusal(address).contains("expected s3://BUCKET/PREFIX"), "{address}: {}", refusal(address));
    }
}
