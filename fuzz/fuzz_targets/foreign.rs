//! Fuzzes Parquet files of other programs, read for an evaluation and by `inspect`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidigit::inspect::inspect;
use multidigit::shards::foreign;
use multidigit_fuzz::file;

/// The maximum number of rows. Every row is an image that must be decoded.
const ROWS: usize = 64;

fuzz_target!(|data: &[u8]| {
    let path = file("test.parquet", data);
    let _ = inspect(&path);
    if let Ok(split) = foreign::read(&[path], 2, Some(ROWS)) {
        let rows = split.len();
        assert!(rows <= ROWS);
        assert_eq!(split.images.len(), rows * split.height * split.width);
        assert_eq!((split.targets.len(), split.index.len()), (rows * split.digits, rows));
        assert!(split.targets.iter().all(|&digit| digit < 10));
    }
});
