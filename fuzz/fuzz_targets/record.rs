//! Fuzzes `record.json`, which must be read again as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidigit::record::{FILE, Record};
use multidigit_fuzz::{file, folder};

fuzz_target!(|data: &[u8]| {
    file(FILE, data);
    if let Ok(Some(mut record)) = Record::read(folder()) {
        record.write(folder()).expect("a record is written");
        let again = Record::read(folder()).expect("what was written is read").expect("a record");
        assert_eq!(record, again);
        let _ = record.look(folder());
    }
});
