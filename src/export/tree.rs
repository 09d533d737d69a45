//! PNG files in folders by split and class, `SPLIT/CLASS/INDEX_CLASS.png`: the layout and the names of the reference
//! generator, <https://github.com/shaohua0116/MultiDigitMNIST>.

use std::collections::BTreeSet;

use super::{Group, Job};
use crate::error::Result;
use crate::files;

/// Writes the files. The PNGs are those of the shards, byte for byte.
pub(super) fn write(job: &Job) -> Result<()> {
    for (split, shards) in job.splits {
        let folder = job.out.join(split);
        let mut labels = BTreeSet::new();
        shards.each_label(|label| {
            labels.insert(label);
        })?;
        for label in labels {
            files::create_dir(&folder.join(shards.layout().class_name(label)))?;
        }
        let write = |position| {
            let group = Group::read(shards, position)?;
            group.iter().try_for_each(|sample| {
                files::write(&folder.join(&sample.class).join(format!("{}.png", sample.name())), sample.png)
            })
        };
        job.in_order(shards, write, Ok)?;
    }
    Ok(())
}
