//! Fuzzes PNG files for a prediction, with any declared size: the input as it is, and with corrected checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidigit::predict::read;
use multidigit_fuzz::file;

/// The number of bytes of the signature before the first chunk.
const SIGNATURE: usize = 8;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    for _ in 0..2 {
        let side = |at: usize| bytes.get(at..at + 4).map_or(2, number);
        let (width, height) = (side(16), side(20));
        // larger sizes cannot occur, since a network for them would have to be trained first
        let size = if height.max(width) <= 1024 { (height, width) } else { (2, 3) };
        if let Ok(pixels) = read(&file("test.png", &bytes), size) {
            assert_eq!(pixels.len(), size.0 * size.1);
        }
        check_sums(&mut bytes);
    }
});

/// Writes the checksum of every complete chunk, which consists of length, type, data and checksum.
fn check_sums(bytes: &mut [u8]) {
    let mut rest = bytes.get_mut(SIGNATURE..).unwrap_or_default();
    while let Some(length) = rest.get(..4).map(number) {
        let Some(whole) = length.checked_add(12).filter(|&whole| whole <= rest.len()) else { return };
        let (chunk, next) = rest.split_at_mut(whole);
        let sum = crc32(&chunk[4..length + 8]);
        chunk[length + 8..].copy_from_slice(&sum.to_be_bytes());
        rest = next;
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), step))
}
