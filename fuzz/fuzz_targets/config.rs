//! Fuzzes `pipeline.yaml`, with overrides in the first lines, each after `--set `.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidigit::config::Config;

fuzz_target!(|text: &str| {
    let mut rest = text;
    let mut overrides = Vec::new();
    while let Some((value, next)) = rest.strip_prefix("--set ").map(|line| line.split_once('\n').unwrap_or((line, "")))
    {
        overrides.push(value);
        rest = next;
    }
    let Ok(mut config) = Config::parse(rest, "file") else { return };
    for value in overrides {
        if let Ok(changed) = config.with(value) {
            config = changed;
        }
    }
    if config.validate().is_ok() {
        let document = config.document();
        let again = Config::parse(&document, "document").unwrap_or_else(|error| panic!("{error}:\n{document}"));
        assert_eq!(again, config, "{document}");
    }
});
