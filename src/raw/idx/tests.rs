use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

/// An IDX file of unsigned bytes.
pub(crate) fn file(dimensions: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|dimension| bytes.extend(dimension.to_be_bytes()));
    bytes.extend(body);
    bytes
}

pub(crate) fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// A file of two images.
fn images() -> Vec<u8> {
    file(&[2, 28, 28], &[7; 1568])
}

fn parse(name: &str, bytes: &[u8], kind: Kind) -> Result<Vec<u8>> {
    let input = Input::new(Cursor::new(bytes.to_owned()), Path::new(name))?;
    let mut idx = Idx::new(input, bytes.len() as u64, kind)?;
    let limit = (MAX_GLYPHS * kind.item()).min(MAX_DEFLATE_RATIO * bytes.len() as u64);
    assert!(idx.body_len() as u64 <= limit, "{} bytes would be allocated", idx.body_len());
    let mut body = vec![0; idx.body_len()];
    idx.read(&mut body, 0)?;
    idx.check_end()?;
    Ok(body)
}

fn refusal(name: &str, bytes: &[u8], kind: Kind) -> String {
    parse(name, bytes, kind).unwrap_err().to_string()
}

#[test]
fn a_good_file_gives_its_body_packed_or_plain() {
    assert_eq!(parse("a", &images(), Kind::Images).unwrap(), [7; 1568]);
    assert_eq!(parse("a.gz", &packed(&images()), Kind::Images).unwrap(), [7; 1568]);
    assert_eq!(parse("l", &file(&[3], &[1, 2, 3]), Kind::Labels).unwrap(), [1, 2, 3]);
}

#[test]
fn gzip_members_are_joined() {
    let (first, second) = (packed(&images()[..100]), packed(&images()[100..]));
    assert_eq!(parse("a.gz", &[first, second].concat(), Kind::Images).unwrap(), [7; 1568]);
}

#[test]
fn what_is_no_idx_file_is_named() {
    let expected = "expected an IDX file, which begins with two zero bytes";
    let page = b"\n <!DOCTYPE html>\n<html>Sign in</html>";
    assert_eq!(refusal("raw/a", page, Kind::Images), format!("`raw/a`: found an HTML page; {expected}"));
    assert_eq!(refusal("raw/a", b"", Kind::Images), format!("`raw/a`: found an empty file; {expected}"));
    assert_eq!(
        refusal("raw/a", b"\x89PNG....", Kind::Images),
        format!("`raw/a`: found data that begins with the bytes 89 50 4e 47; {expected}")
    );
    assert_eq!(refusal("raw/a", b"PK\x03\x04....", Kind::Labels), format!("`raw/a`: found a zip archive; {expected}"));
    assert_eq!(refusal("a.gz", &packed(b""), Kind::Images), format!("`a.gz`: found an empty file; {expected}"));
    assert_eq!(
        refusal("a.gz", &packed(b"tarball"), Kind::Images),
        format!("`a.gz`: found data that begins with the bytes 74 61 72 62; {expected}")
    );
}

#[test]
fn elements_must_be_bytes() {
    let mut floats = images();
    floats[2] = 0x0d;
    assert_eq!(
        refusal("raw/a", &floats, Kind::Images),
        "`raw/a`: elements of type 0x0d (32-bit float); expected 0x08 (unsigned byte)"
    );
    floats[2] = 0x42;
    assert_eq!(
        refusal("raw/a", &floats, Kind::Images),
        "`raw/a`: elements of type 0x42 (unknown); expected 0x08 (unsigned byte)"
    );
}

#[test]
fn images_and_labels_are_not_confused() {
    assert_eq!(
        refusal("raw/a", &file(&[2], &[1, 2]), Kind::Images),
        "`raw/a`: magic 2049, expected 2051 (is this a label file?)"
    );
    assert_eq!(
        refusal("raw/a", &images(), Kind::Labels),
        "`raw/a`: magic 2051, expected 2049 (is this an image file?)"
    );
    assert_eq!(
        refusal("raw/a", &file(&[2, 784], &[1; 1568]), Kind::Images),
        "`raw/a`: 2 dimensions; expected 3, as images have"
    );
}

#[test]
fn images_must_be_28_by_28() {
    assert_eq!(
        refusal("raw/a", &file(&[1, 32, 16], &[0; 512]), Kind::Images),
        "`raw/a`: images of 32x16 pixels; expected 28x28"
    );
}

#[test]
fn counts_have_limits() {
    assert_eq!(
        refusal("raw/a", &file(&[0, 28, 28], &[]), Kind::Images),
        "`raw/a`: holds no images; expected at least one"
    );
    assert_eq!(
        refusal("raw/a", &file(&[u32::MAX], &[]), Kind::Labels),
        "`raw/a`: promises 4294967295 labels; expected at most 10000000"
    );
}

#[test]
fn a_small_packed_file_cannot_make_us_allocate_much() {
    let bytes = packed(&file(&[10_000_000, 28, 28], &[]));
    let (stored, possible) = (bytes.len(), bytes.len() * 1032);
    assert_eq!(
        refusal("a.gz", &bytes, Kind::Images),
        format!(
            "`a.gz`: promises 7840000016 bytes, but {stored} bytes of gzip unpack to at most {possible}; expected a \
             whole file"
        )
    );
}

#[test]
fn the_length_is_exact() {
    let bytes = images();
    assert_eq!(refusal("a", &bytes[..1000], Kind::Images), short("a", 1000, 1584));
    assert_eq!(refusal("a.gz", &packed(&bytes[..1000]), Kind::Images), short("a.gz", 1000, 1584));
    assert_eq!(refusal("a", &bytes[..9], Kind::Images), short("a", 9, 16));
    assert_eq!(refusal("a", &bytes[..3], Kind::Images), short("a", 3, 4));
    let longer = [bytes.as_slice(), &[0]].concat();
    let trailing = "goes on after 1584 bytes; expected it to end there, as its header says";
    assert_eq!(refusal("a", &longer, Kind::Images), format!("`a`: {trailing}"));
    assert_eq!(refusal("a.gz", &packed(&longer), Kind::Images), format!("`a.gz`: {trailing}"));
    let two_members = [packed(&bytes), packed(&bytes)].concat();
    assert_eq!(refusal("a.gz", &two_members, Kind::Images), format!("`a.gz`: {trailing}"));
}

fn short(name: &str, found: usize, expected: usize) -> String {
    format!("`{name}`: ends after {found} bytes; expected {expected}, as its header says")
}

#[test]
fn a_name_must_say_whether_the_file_is_packed() {
    let expected = "expected gzip data, as the name ends in .gz";
    assert_eq!(
        refusal("raw/a.gz", &images(), Kind::Images),
        format!("`raw/a.gz`: found plain IDX data (was `.gz` added by renaming?); {expected}")
    );
    assert_eq!(
        refusal("raw/a.gz", b"<html><body>302</body></html>", Kind::Images),
        format!("`raw/a.gz`: found an HTML page; {expected}")
    );
    assert_eq!(refusal("raw/a.gz", b"", Kind::Images), format!("`raw/a.gz`: found an empty file; {expected}"));
    assert_eq!(
        refusal("raw/a", &packed(&images()), Kind::Images),
        "`raw/a`: found gzip data; expected plain IDX data, as the name does not end in .gz (add it)"
    );
}

#[test]
fn damaged_gzip_is_refused() {
    let noise: Vec<u8> = (0..1568u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let good = packed(&file(&[2, 28, 28], &noise));
    for end in [10, 100, good.len() - 8, good.len() - 1] {
        assert_eq!(
            refusal("a.gz", &good[..end], Kind::Images),
            "`a.gz`: the gzip data is cut off; expected a whole file (copy or download it again)",
            "cut at {end}"
        );
    }
    let mut bad_sum = good.clone();
    bad_sum[good.len() - 8] ^= 1;
    assert_eq!(
        refusal("a.gz", &bad_sum, Kind::Images),
        "`a.gz`: damaged gzip data (corrupt gzip stream does not have a matching checksum); expected a sound file \
         (copy or download it again)"
    );
    let trailing = [good.as_slice(), &[1; 20]].concat();
    assert_eq!(
        refusal("a.gz", &trailing, Kind::Images),
        "`a.gz`: damaged gzip data (invalid gzip header); expected a sound file (copy or download it again)"
    );
}

#[test]
fn unpacking_stops_where_the_promise_ends() {
    // 100 MB of zeros after a header that declares two images; the count of bytes read shows whether they are unpacked
    struct Counted<R>(R, std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl<R: Read> Read for Counted<R> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(out)?;
            self.1.fetch_add(read, std::sync::atomic::Ordering::Relaxed);
            Ok(read)
        }
    }
    let bomb = packed(&file(&[2, 28, 28], &vec![0; 100_000_000]));
    assert!(bomb.len() > 4 * BUFFER);
    let taken = std::sync::Arc::default();
    let input = Input::new(Counted(Cursor::new(bomb), std::sync::Arc::clone(&taken)), Path::new("a.gz")).unwrap();
    let mut idx = Idx::new(input, 1 << 20, Kind::Images).unwrap();
    idx.read(&mut [0; 1568], 0).unwrap();
    let error = idx.check_end().unwrap_err();
    assert!(matches!(error.area(), Some(RawError::IdxTrailing { expected: 1584, .. })), "{error}");
    assert_eq!(taken.load(std::sync::atomic::Ordering::Relaxed), BUFFER);
}

#[test]
fn a_header_is_told_for_any_kind_of_idx_file() {
    let home = tempfile::tempdir().unwrap();
    let tell = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        header(&path).map_err(|error| error.to_string().replace(&home.path().display().to_string(), "raw"))
    };
    let expected =
        Header { dimensions: vec![2, 28, 28], element: "unsigned byte", bytes: 1568, kind: Some(Kind::Images) };
    assert_eq!(tell("a.gz", &packed(&images())).unwrap(), expected);
    let mut floats = file(&[5, 6], &[]);
    floats[2] = 0x0d;
    let expected = Header { dimensions: vec![5, 6], element: "32-bit float", bytes: 120, kind: None };
    assert_eq!(tell("f", &floats).unwrap(), expected);
    assert_eq!(
        tell("huge", &file(&[u32::MAX; 3], &[])).unwrap_err(),
        "`raw/huge`: dimensions [4294967295, 4294967295, 4294967295]; expected less than 2^64 bytes in all"
    );
    assert_eq!(tell("zero", &file(&[0, 28, 28], &[])).unwrap().bytes, 0);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..4usize) {
        // some begin like valid files, so that the later checks are reached as well
        let starts: [&[u8]; 4] = [&[], &[0, 0, 8, 3], &[0, 0, 8, 1], &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]];
        let bytes = [starts[start], &bytes].concat();
        for kind in [Kind::Images, Kind::Labels] {
            for name in ["a", "a.gz"] {
                let _ = parse(name, &bytes, kind);
            }
            let _ = parse("a.gz", &packed(&bytes), kind);
        }
    }

    #[test]
    fn a_changed_file_never_panics_and_never_passes_for_another_length(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
        pack in any::<bool>(),
    ) {
        let mut bytes = if pack { packed(&images()) } else { images() };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        if let Ok(body) = parse(if pack { "a.gz" } else { "a" }, &bytes, Kind::Images) {
            prop_assert_eq!(body.len(), 1568);
        }
    }
}
