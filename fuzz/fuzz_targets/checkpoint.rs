//! Fuzzes checkpoints: the input as a file, and a file with the input as its state and a valid digest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidigit::networks::weights;
use multidigit::train::checkpoint::{FILE, TrainingState, find};
use multidigit_fuzz::{file, folder};

fuzz_target!(|data: &[u8]| {
    let path = file(FILE, data);
    let _ = find(folder());
    let Ok(description @ serde_json::Value::Object(_)) = serde_json::from_slice(data) else { return };
    if weights::write(&path, None, Vec::new(), &description).is_err() {
        return;
    }
    if let Ok(Some(found)) = find(folder()) {
        let state = found.state;
        let text = serde_json::to_string(&state).expect("a state is plain data");
        let again: TrainingState = serde_json::from_str(&text).expect("what was written is read");
        assert_eq!(text, serde_json::to_string(&again).expect("a state is plain data"));
        let _ = state.scores.mean_loss();
    }
});
