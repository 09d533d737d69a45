//! The environment of a run: the program, the machine and the data set, stored as `env.json` in the run's folder.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Device;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use multidigit_nn::Precision;

/// The name of the file.
pub const FILE: &str = "env.json";

/// The environment of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The version of the program.
    pub version: String,
    /// The commit from which the program was built, if known, with `-dirty` if the files differed from it.
    pub commit: Option<String>,
    /// The name of the processor.
    pub cpu: String,
    /// The number of cores that the system offers.
    pub cores: usize,
    /// The number of threads that computed.
    pub threads: usize,
    /// The device that computed.
    pub device: Device,
    /// What computed the products, such as `float32`.
    pub products: String,
    /// The content digest of the data set.
    pub dataset: Digest,
    /// The time at which the run began, in seconds since 1970.
    pub started: u64,
}

impl Environment {
    /// The current environment of this process.
    pub fn here(device: Device, precision: Precision, dataset: Digest) -> Environment {
        let products = match device {
            Device::Cpu => precision.on_cpu().unwrap_or_default(),
            Device::Cuda => precision.to_string(),
        };
        Environment {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("MULTIDIGIT_COMMIT").map(str::to_owned),
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            device,
            products,
            dataset,
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        }
    }

    /// Reads the environment of the run in `folder`.
    pub fn read(folder: &Path) -> Result<Environment> {
        let path = folder.join(FILE);
        let refuse = |e: serde_json::Error| {
            Error::format(&path, format!("not an environment ({e})"), "what `train` writes; train the run again")
        };
        serde_json::from_str(&files::read_text(&path)?).map_err(refuse)
    }

    /// Writes the environment to the folder of a run.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::replace(&folder.join(FILE), format!("{:#}\n", serde_json::json!(self)).as_bytes())
    }
}

/// The name of the processor if the system reports it, else its architecture.
fn cpu() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH, |(_, name)| name.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_reads_back_and_a_broken_one_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment::here(Device::Cpu, Precision::Tf32, Digest::of(b"data"));
        assert_eq!(environment.products, "float32");
        assert!(environment.threads >= 1 && !environment.cpu.is_empty());
        environment.write(home.path()).unwrap();
        assert_eq!(Environment::read(home.path()).unwrap(), environment);
        std::fs::write(home.path().join(FILE), "{}").unwrap();
        let error = Environment::read(home.path()).unwrap_err().to_string();
        assert!(error.contains("not an environment (missing field `version`"), "{error}");
    }
}
