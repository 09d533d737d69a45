//! The description of a data set for machines: the file `croissant.json` beside the shards, in the format
//! [Croissant 1.1](https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html), with its properties for responsible AI
//! and the provenance in the terms of [PROV-O](https://www.w3.org/TR/prov-o/).
//!
//! Like every output of a stage, the file is a function of its inputs. It therefore has no date, address or publisher: whoever
//! publishes the data set adds them.

use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::plan::Facts;
use crate::plan::split::NAMES;
use crate::raw::Origin;
use crate::shards::{DATA, Layout, ShardFile, Written};

/// The file name of the description.
pub const FILE: &str = "croissant.json";

/// The version of what this program writes: the columns and their meaning. The digests tell data sets apart.
const VERSION: &str = "1.0.0";

/// The media type that mlcroissant knows Parquet files by.
const PARQUET: &str = "application/x-parquet";

/// The publication of the reference generator, whose images the data set equals.
const CITATION: &str = "@misc{multidigitmnist, author = {Sun, Shao-Hua}, title = {Multi-digit MNIST for Few-shot Learning}, \
                        year = {2019}, url = {https://github.com/shaohua0116/MultiDigitMNIST}}";

/// Describes a data set from its facts, its schema, what was written of each split, and the content of its plan.
pub fn croissant(facts: &Facts, layout: &Layout, written: &[Written], plan: Digest) -> String {
    let (origin, splits) = (facts.glyphs.origin(), || NAMES.into_iter().zip(written));
    let mut distribution: Vec<Value> = written.iter().flat_map(|split| &split.files).map(file_object).collect();
    distribution.extend(NAMES.map(file_set));
    let mut document = json!({
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": origin.title(facts.plan.digits),
        "description": description(facts),
        "version": VERSION,
        "citeAs": CITATION,
        "keywords": ["MNIST", "multi-digit", "multi-label classification", "few-shot learning"],
    });
    if let Value::Object(document) = &mut document {
        document.extend(origin.licence().url.map(|url| ("license".to_owned(), url.into())));
        document.extend(provenance(facts, origin, plan));
        document.extend(responsible(facts, origin));
        document.insert("distribution".to_owned(), distribution.into());
        let record_sets: Vec<Value> = splits().map(|(name, split)| record_set(name, split, layout)).collect();
        document.insert("recordSet".to_owned(), record_sets.into());
    }
    format!("{document:#}\n")
}

fn description(facts: &Facts) -> String {
    let [height, width] = facts.plan.image_size;
    let by = json!(facts.plan.split.by);
    let images: u64 = facts.counts.as_array().into_iter().sum();
    format!(
        "{images} grey images of {height}x{width} pixels that show {} each, composed of glyphs of {} by the rules of the \
         reference generator of MultiDigitMNIST. Divided into {} by {}.",
        if facts.plan.digits == 1 { "one digit".to_owned() } else { format!("{} digits", facts.plan.digits) },
        facts.glyphs.name,
        NAMES.join(", "),
        by.as_str().unwrap_or_default(),
    )
}

/// The names of Croissant's own terms, as its specification lists them, and of PROV-O.
fn context() -> Value {
    let mut context = json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "prov": "http://www.w3.org/ns/prov#",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "sc": "https://schema.org/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "description": {"@container": "@language"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "name": {"@container": "@language"},
    });
    let terms = [
        "arrayShape",
        "citeAs",
        "column",
        "containedIn",
        "equivalentProperty",
        "extract",
        "field",
        "fileObject",
        "fileProperty",
        "fileSet",
        "format",
        "includes",
        "isArray",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
        "path",
        "recordSet",
        "references",
        "regex",
        "repeated",
        "replace",
        "samplingRate",
        "separator",
        "source",
        "subField",
        "transform",
    ];
    if let Value::Object(context) = &mut context {
        context.extend(terms.map(|term| (term.to_owned(), format!("cr:{term}").into())));
    }
    context
}

/// What the data set was derived from and how.
fn provenance(facts: &Facts, origin: Origin, plan: Digest) -> Map<String, Value> {
    let blake3 = |digest: &Digest| format!("blake3:{digest}");
    let mut glyphs = json!({
        "@id": "glyphs",
        "@type": "prov:Entity",
        "prov:label": format!("{}, {} glyphs", facts.glyphs.name, facts.glyphs.count),
        "identifier": blake3(&facts.glyphs.digest),
    });
    if let (Value::Object(glyphs), Some(url)) = (&mut glyphs, origin.url()) {
        glyphs.insert("url".to_owned(), url.into());
    }
    let plan = json!({
        "@id": "plan",
        "@type": "prov:Entity",
        "prov:label": "the glyphs of all images and their places",
        "identifier": blake3(&plan),
        "prov:value": json!(facts.plan).to_string(),
        "prov:wasDerivedFrom": {"@id": "glyphs"},
    });
    let activity = json!({
        "@id": "composition",
        "@type": "prov:Activity",
        "prov:label": "multidigit run dataset",
        "prov:used": [{"@id": "glyphs"}, {"@id": "plan"}],
        "prov:wasAssociatedWith": {"@id": "multidigit", "@type": "prov:SoftwareAgent", "prov:label": "multidigit"},
    });
    let pairs = [("prov:wasDerivedFrom", json!([glyphs, plan])), ("prov:wasGeneratedBy", activity)];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Croissant's properties for responsible AI.
fn responsible(facts: &Facts, origin: Origin) -> Map<String, Value> {
    let biases = match origin {
        Origin::Mnist => {
            "The glyphs were written by employees of the United States Census Bureau and by American high-school students. \
             Other styles of writing digits are missing."
        }
        Origin::FashionMnist => "The glyphs are pictures of the products of one shop.",
        Origin::Synthetic => {
            "The glyphs are variations of a few strokes that a program drew. They are not handwriting."
        }
        Origin::Unknown => "The biases are those of the glyphs, which the program does not know.",
    };
    let personal = match origin {
        Origin::Unknown => "The program does not know the glyphs.",
        _ => "None. The images tell nothing about the people who made the glyphs.",
    };
    let sharing = format!("{}.", facts.leakage_sentence());
    let limits = "Every digit keeps to its slot: digits do not overlap, are not rotated or scaled, and stand on black.";
    let pairs = [
        (
            "dataCollection",
            json!(
                "A program composed the images: it drew the glyphs of each image and their places from a seeded generator."
            ),
        ),
        ("dataLimitations", json!([limits, sharing])),
        ("dataBiases", json!(biases)),
        ("personalSensitiveInformation", json!(personal)),
        (
            "dataUseCases",
            json!(
                "Research and teaching: multi-label recognition, unseen combinations of known digits, few-shot learning."
            ),
        ),
        (
            "dataSocialImpact",
            json!("None is expected. Accuracy on these images says little about reading real documents."),
        ),
        ("hasSyntheticData", json!(true)),
    ];
    pairs.into_iter().map(|(key, value)| (format!("rai:{key}"), value)).collect()
}

/// A shard as a resource. Its path is relative to the description.
fn file_object(file: &ShardFile) -> Value {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    json!({
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": format!("{DATA}/{name}"),
        "contentSize": format!("{} B", file.bytes),
        "encodingFormat": PARQUET,
        "sha256": file.sha256,
    })
}

/// All shards of a split.
fn file_set(split: &str) -> Value {
    json!({
        "@type": "cr:FileSet",
        "@id": format!("{split}-shards"),
        "name": format!("{split}-shards"),
        "description": format!("the shards of the split {split}"),
        "encodingFormat": PARQUET,
        "includes": format!("{DATA}/{split}-*.parquet"),
    })
}

/// The rows of a split and their columns.
fn record_set(split: &str, written: &Written, layout: &Layout) -> Value {
    let Layout { digits, height, width, pixels, .. } = *layout;
    let field = |name: &str, of: &str, shape: &str, what: &str| {
        let shards = format!("{split}-shards");
        let source = match name {
            "image" => {
                json!({"fileSet": {"@id": shards}, "extract": {"column": name}, "transform": {"jsonPath": "bytes"}})
            }
            _ => json!({"fileSet": {"@id": shards}, "extract": {"column": name}}),
        };
        let mut field = json!({
            "@type": "cr:Field",
            "@id": format!("{split}/{name}"),
            "name": name,
            "description": what,
            "dataType": of,
            "source": source,
        });
        if let (Value::Object(field), false) = (&mut field, shape.is_empty()) {
            field.insert("isArray".to_owned(), true.into());
            field.insert("arrayShape".to_owned(), shape.into());
        }
        field
    };
    let (of_digits, of_boxes) = (digits.to_string(), format!("{digits},4"));
    let image = format!("the image, {height}x{width} grey pixels, as PNG");
    let mut fields = vec![
        field("image", "sc:ImageObject", "", &image),
        field("label", "cr:Int64", "", "the class: the number that the digits spell"),
        field("digits", "cr:Int64", &of_digits, "the digits, left to right"),
        field("index", "cr:Int64", "", "the number of the sample in its class, from 0"),
        field("source_index", "cr:Int64", &of_digits, "the glyph of each digit: its number among all glyphs"),
        field("boxes", "cr:Int64", &of_boxes, "the tight box of each digit's ink: x, y, width, height in pixels"),
    ];
    if pixels {
        fields.push(field("pixels", "sc:Text", "", "the raw bytes of the image, row-major"));
    }
    json!({
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": format!("the {} samples of the split {split}; content digest blake3:{}", written.rows, written.digest),
        "field": fields,
    })
}
