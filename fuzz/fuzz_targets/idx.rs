//! Fuzzes IDX files, plain and in gzip. The first byte selects the form, and whether images or labels are expected.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidigit::raw::idx::{Idx, Kind, header};
use multidigit_fuzz::file;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let path = file(if choice & 1 == 0 { "idx" } else { "idx.gz" }, bytes);
    let kind = if choice & 2 == 0 { Kind::Images } else { Kind::Labels };
    let header = header(&path);
    let Ok(mut idx) = Idx::open(&path, &path, kind) else { return };
    let header = header.expect("what opens has a header");
    assert_eq!(header.kind, Some(kind));
    assert_eq!((header.dimensions[0], header.bytes), (idx.count as u64, idx.body_len() as u64));
    let mut content = idx.head().to_vec();
    let start = content.len();
    content.resize(start + idx.body_len(), 0);
    if idx.read(&mut content[start..], 0).and_then(|()| idx.check_end()).is_ok() && choice & 1 == 0 {
        assert_eq!(content, bytes, "a plain file is what was read of it");
    }
});
