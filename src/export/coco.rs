//! PNG files with a box and a category for each digit, as detectors read them: `images/SPLIT/NAME.png`, COCO's
//! `annotations/instances_SPLIT.json`, and YOLO's `labels/SPLIT/NAME.txt` with `data.yaml`.
//!
//! The boxes are the tight boxes around the ink. COCO's category of a digit is the digit plus 1, since detectors take
//! category 0 as background; YOLO's class is the digit.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::{Group, Job, Sample};
use crate::error::{Error, Result};
use crate::files;
use crate::shards::{Layout, Shards};

/// Writes the files.
pub(super) fn write(job: &Job) -> Result<()> {
    let annotations = job.out.join("annotations");
    files::create_dir(&annotations)?;
    for (split, shards) in job.splits {
        for kind in ["images", "labels"] {
            files::create_dir(&job.out.join(kind).join(split))?;
        }
        write_split(job, split, shards, &annotations.join(format!("instances_{split}.json")))?;
    }
    files::write(&job.out.join("data.yaml"), yolo(job.splits.iter().map(|(split, _)| *split)).as_bytes())
}

fn write_split(job: &Job, split: &str, shards: &Shards, path: &Path) -> Result<()> {
    let layout = shards.layout();
    let write = |position| {
        let group = Group::read(shards, position)?;
        for sample in group.iter() {
            let name = sample.name();
            files::write(&job.out.join("images").join(split).join(format!("{name}.png")), sample.png)?;
            let lines = yolo_lines(&sample, layout);
            files::write(&job.out.join("labels").join(split).join(format!("{name}.txt")), lines.as_bytes())?;
        }
        Ok(group)
    };
    // the images come first in the file, so the annotations wait in a second one
    let waiting = path.with_extension("part");
    let create = |path: &Path| File::create(path).map(BufWriter::new).map_err(Error::io(path, "create it"));
    let (mut images, mut annotations) = (create(path)?, create(&waiting)?);
    let failed = || Error::io(path, "write it");
    let categories: Vec<Value> = (0..10).map(|digit| json!({"id": digit + 1, "name": digit.to_string()})).collect();
    write!(images, "{{\"categories\": {},\n\"images\": [", json!(categories)).map_err(failed())?;
    let (mut image, mut annotation) = (0_u64, 0_u64);
    job.in_order(shards, write, |group| {
        for sample in group.iter() {
            let comma = |number: u64| if number == 0 { "\n" } else { ",\n" };
            let object = json!({
                "id": image + 1, "file_name": format!("{}.png", sample.name()),
                "width": layout.width, "height": layout.height,
            });
            write!(images, "{}{object}", comma(image)).map_err(failed())?;
            image += 1;
            for (digit, area) in sample.digits.iter().zip(&sample.boxes) {
                let [_, _, width, height] = area;
                let object = json!({
                    "id": annotation + 1, "image_id": image, "category_id": digit + 1,
                    "bbox": area, "area": width * height, "iscrowd": 0,
                });
                write!(annotations, "{}{object}", comma(annotation)).map_err(failed())?;
                annotation += 1;
            }
        }
        Ok(())
    })?;
    annotations.flush().map_err(failed())?;
    write!(images, "],\n\"annotations\": [").map_err(failed())?;
    std::io::copy(&mut files::open(&waiting)?, &mut images).map_err(failed())?;
    writeln!(images, "]}}").and_then(|()| images.flush()).map_err(failed())?;
    files::remove(&waiting)
}

/// A line for each digit: the class, then the centre, the width and the height of the box as shares of the image.
fn yolo_lines(sample: &Sample, layout: &Layout) -> String {
    let mut lines = String::new();
    for (digit, &[x, y, width, height]) in sample.digits.iter().zip(&sample.boxes) {
        let share = |twice: i64, whole: usize| twice as f64 / (2 * whole) as f64;
        let (x, y) = (share(2 * x + width, layout.width), share(2 * y + height, layout.height));
        let (width, height) = (share(2 * width, layout.width), share(2 * height, layout.height));
        let _ = writeln!(lines, "{digit} {x} {y} {width} {height}");
    }
    lines
}

/// The description of the data for YOLO, with paths relative to itself.
fn yolo<'a>(splits: impl Iterator<Item = &'a str>) -> String {
    let folders: String = splits.map(|split| format!("{split}: images/{split}\n")).collect();
    let names: String = (0..10).map(|digit| format!("  {digit}: \"{digit}\"\n")).collect();
    format!("path: .\n{folders}names:\n{names}")
}
