//! Fuzzes weights files: the input as a file, and a file with the input as its description and a valid digest.
#![no_main]

use candle_core::Device;
use libfuzzer_sys::fuzz_target;
use multidigit::networks::weights::{self, Entry};
use multidigit_fuzz::{file, folder};
use multidigit_nn::Precision;

fuzz_target!(|data: &[u8]| {
    let path = file("any.safetensors", data);
    if let Ok(parsed) = weights::parse(&path, data) {
        for (name, view) in parsed.tensors.iter() {
            if let Ok(floats) = weights::floats(&path, &parsed.tensors, name, view.shape()) {
                assert_eq!(4 * floats.len(), view.data().len());
            }
        }
    }
    let _ = weights::load(&path, None, &Device::Cpu, Precision::F32);
    let Ok(description @ serde_json::Value::Object(_)) = serde_json::from_slice(data) else { return };
    let path = folder().join("described.safetensors");
    let tensors = vec![("fc1.weight".to_owned(), Entry::vector(&[1.0; 4]))];
    if weights::write(&path, None, tensors, &description).is_ok() {
        assert!(weights::load(&path, None, &Device::Cpu, Precision::F32).is_err(), "one tensor is no network");
    }
});
