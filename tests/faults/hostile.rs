//! Tests of malicious files: false sizes, small files that decompress to huge ones, structures without end. The program
//! runs under a limit on its address space, and must respond with an error that names the file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::home::{Answer, Home};

/// The limit on the program's address space in bytes. Valid files of these sizes need 100 MB; a malicious file may
/// cause the use of four times the largest pages that are read, of 128 MB.
const MEMORY: u64 = 512 << 20;
/// The maximum time of a refusal, on a busy machine.
const TIME: Duration = Duration::from_secs(60);

const SETTINGS: [&str; 9] = [
    "raw.source=synthetic",
    "plan.digits=1",
    "plan.samples_per_class=2",
    "plan.image_size=[44, 44]",
    "train.model=alexnet",
    "train.epochs=1",
    "train.batch_size=4",
    "train.run=r",
    "evaluate.batch_size=8",
];

/// A home with a trained small network.
fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Home::with(&SETTINGS);
        home.ok(&["run", "train"]);
        home
    })
}

/// A home with copies of the files in [`home`].
fn copy_of_home() -> Home {
    let copy = Home::with(&SETTINGS);
    let from = home().path("artifacts");
    let status = Command::new("cp").args(["-a"]).arg(from).arg(copy.folder.path()).status().unwrap();
    assert!(status.success());
    copy
}

/// Turns the run of a home into one that was killed at its end. Returns its folder.
fn unfinished(home: &Home) -> PathBuf {
    let (run, unfinished) = (home.path("artifacts/train/r"), home.path("artifacts/train/r.unfinished"));
    fs::rename(run, &unfinished).unwrap();
    let record: Value = serde_json::from_str(&fs::read_to_string(unfinished.join("record.json")).unwrap()).unwrap();
    fs::remove_file(unfinished.join("record.json")).unwrap();
    fs::write(unfinished.join(".multidigit"), json!({"about": "a test", "key": record["key"]}).to_string()).unwrap();
    unfinished
}

/// Runs the program in a home on one thread, under the memory limit.
fn limited(home: &Home, arguments: &[&str]) -> Answer {
    let (all, began) = (home.command(arguments), Instant::now());
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -v {} && exec \"$0\" \"$@\"", MEMORY >> 10));
    command.arg(all.get_program()).args(["--threads", "1"]).args(all.get_args());
    command.current_dir(home.folder.path()).env_remove("MULTIDIGIT_MIRRORS").env("RAYON_NUM_THREADS", "1");
    let answer = Answer::of(command.output().expect("the program starts"));
    assert!(began.elapsed() < TIME, "{arguments:?}: {:?}", began.elapsed());
    answer
}

/// Asserts that the program ended by itself, with a message of its own.
fn assert_calm(what: &str, answer: &Answer) {
    let Answer { code, stderr, .. } = answer;
    assert!(matches!(code, Some(0..=2)), "{what}: {code:?}: {stderr}");
    assert!(stderr.len() < 20_000, "{what}: {} bytes of errors: {}", stderr.len(), &stderr[..1000]);
    assert!(!stderr.contains("panicked") && !stderr.contains("please report"), "{what}: {stderr}");
}

/// Asserts that the program failed with an error that names the file.
fn assert_refused(what: &str, file: &str, answer: &Answer) {
    assert_calm(what, answer);
    assert!(matches!(answer.code, Some(1 | 2)), "{what}: not refused: {}{}", answer.stdout, answer.stderr);
    assert!(answer.stderr.contains("error: ") && answer.stderr.contains(file), "{what}: {}", answer.stderr);
}

// ---- Thrift's compact protocol, as far as needed to write Parquet files that no library would write

/// The types of fields.
const I32: u8 = 5;
const I64: u8 = 6;
const STRUCT: u8 = 12;

/// A struct under construction.
#[derive(Default, Clone)]
struct Thrift(Vec<u8>);

fn varint(out: &mut Vec<u8>, mut word: u64) {
    while word >= 128 {
        out.push(word as u8 | 128);
        word >>= 7;
    }
    out.push(word as u8);
}

impl Thrift {
    /// Writes the type and the number of a field, in the long form.
    fn field(mut self, number: i16, kind: u8) -> Thrift {
        self.0.push(kind);
        varint(&mut self.0, ((number << 1) ^ (number >> 15)) as u16 as u64);
        self
    }

    fn int(self, number: i16, kind: u8, value: i64) -> Thrift {
        let mut this = self.field(number, kind);
        varint(&mut this.0, ((value << 1) ^ (value >> 63)) as u64);
        this
    }

    fn i32(self, number: i16, value: i64) -> Thrift {
        self.int(number, I32, value)
    }

    fn i64(self, number: i16, value: i64) -> Thrift {
        self.int(number, I64, value)
    }

    fn text(self, number: i16, text: &str) -> Thrift {
        let mut this = self.field(number, 8);
        varint(&mut this.0, text.len() as u64);
        this.0.extend(text.as_bytes());
        this
    }

    fn within(self, number: i16, inner: Thrift) -> Thrift {
        let mut this = self.field(number, STRUCT);
        this.0.extend(inner.end());
        this
    }

    /// Writes a list whose header declares `length` elements.
    fn list(self, number: i16, kind: u8, length: u64, items: &[Vec<u8>]) -> Thrift {
        let mut this = self.field(number, 9);
        this.0.push(0xf0 | kind);
        varint(&mut this.0, length);
        this.0.extend(items.concat());
        this
    }

    fn structs(self, number: i16, items: Vec<Thrift>) -> Thrift {
        let items: Vec<Vec<u8>> = items.into_iter().map(Thrift::end).collect();
        self.list(number, STRUCT, items.len() as u64, &items)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(0);
        self.0
    }
}

// ---- Parquet

/// Physical types, codecs and encodings, by their numbers in parquet.thrift.
const INT64: i64 = 2;
const BYTE_ARRAY: i64 = 6;
const PLAIN_CODEC: i64 = 0;
const SNAPPY: i64 = 1;
const ZSTD: i64 = 6;
const PLAIN: i64 = 0;
const DELTA_BINARY_PACKED: i64 = 5;
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;
const RLE_DICTIONARY: i64 = 8;

/// A required element of a schema, so that pages need no levels.
fn leaf(name: &str, kind: i64) -> Thrift {
    Thrift::default().i32(1, kind).i32(3, 0).text(4, name)
}

fn group(name: &str, children: i64) -> Thrift {
    Thrift::default().i32(3, 0).text(4, name).i32(5, children)
}

/// A page of header and data. `unpacked` is the declared size.
fn page(values: i64, encoding: i64, unpacked: i64, data: &[u8]) -> Vec<u8> {
    let inner = Thrift::default().i32(1, values).i32(2, encoding).i32(3, 3).i32(4, 3);
    let header = Thrift::default().i32(1, 0).i32(2, unpacked).i32(3, data.len() as i64).within(5, inner);
    [header.end(), data.to_vec()].concat()
}

fn dictionary(words: i64, unpacked: i64, data: &[u8]) -> Vec<u8> {
    let inner = Thrift::default().i32(1, words).i32(2, PLAIN);
    let header = Thrift::default().i32(1, 2).i32(2, unpacked).i32(3, data.len() as i64).within(7, inner);
    [header.end(), data.to_vec()].concat()
}

/// A column of one row group.
struct Column {
    path: &'static [&'static str],
    kind: i64,
    codec: i64,
    pages: Vec<u8>,
    has_dictionary: bool,
}

/// The usual columns, images and labels.
fn pictures(codec: i64, pages: Vec<u8>) -> Column {
    Column { path: &["image", "bytes"], kind: BYTE_ARRAY, codec, pages, has_dictionary: false }
}

fn labels(values: i64, pages: Vec<u8>) -> Column {
    let pages = if pages.is_empty() { page(values, PLAIN, 8 * values, &vec![0; 8 * values as usize]) } else { pages };
    Column { path: &["label"], kind: INT64, codec: PLAIN_CODEC, pages, has_dictionary: false }
}

fn usual_schema() -> Vec<Thrift> {
    vec![group("schema", 2), group("image", 1), leaf("bytes", BYTE_ARRAY), leaf("label", INT64)]
}

/// A file with a schema, columns, and a declared number of rows.
fn parquet(schema: Vec<Thrift>, columns: Vec<Column>, rows: i64) -> Vec<u8> {
    let elements = schema.len() as u64;
    let items: Vec<Vec<u8>> = schema.into_iter().map(Thrift::end).collect();
    parquet_of(elements, &items, columns, rows)
}

fn parquet_of(elements: u64, schema: &[Vec<u8>], columns: Vec<Column>, rows: i64) -> Vec<u8> {
    let mut file = b"PAR1".to_vec();
    let mut chunks = Vec::new();
    for column in columns {
        let (start, bytes) = (file.len() as i64, column.pages.len() as i64);
        let path: Vec<Vec<u8>> =
            column.path.iter().map(|part| [&[part.len() as u8], part.as_bytes()].concat()).collect();
        let mut meta = Thrift::default()
            .i32(1, column.kind)
            .list(2, I32, 1, &[vec![0]])
            .list(3, 8, path.len() as u64, &path)
            .i32(4, column.codec)
            .i64(5, rows)
            .i64(6, bytes)
            .i64(7, bytes)
            .i64(9, start);
        if column.has_dictionary {
            meta = meta.i64(11, start);
        }
        chunks.push(Thrift::default().i64(2, start).within(3, meta));
        file.extend(column.pages);
    }
    let row_group = Thrift::default().structs(1, chunks).i64(2, 0).i64(3, rows);
    let footer = Thrift::default().i32(1, 1).list(2, STRUCT, elements, schema).i64(3, rows).structs(4, vec![row_group]);
    let footer = footer.text(6, "a test").end();
    file.extend(&footer);
    file.extend((footer.len() as u32).to_le_bytes());
    file.extend(b"PAR1");
    file
}

fn texts(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes(), *text].concat()).collect()
}

/// Dictionary indices: `values` times the first entry, as a run of one-bit values.
fn first_word(values: u64) -> Vec<u8> {
    let mut data = vec![1];
    varint(&mut data, values << 1);
    data.push(0);
    data
}

/// `count` zeros as DELTA_BINARY_PACKED, in a single block, however long it is.
fn packed_zeros(count: u64) -> Vec<u8> {
    let mut data = Vec::new();
    let block = count.next_multiple_of(128);
    varint(&mut data, block);
    varint(&mut data, 1);
    varint(&mut data, count);
    data.extend([0, 0, 0]); // the first value, the minimum delta, the bit width
    data
}

/// A Zstandard frame of some bytes followed by zeros, `unpacked` bytes in all. The zeros take 4 bytes per 128 kB.
fn zstd(start: &[u8], unpacked: u64) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0]; // one segment, with its size in 8 bytes
    frame.extend(unpacked.to_le_bytes());
    let block = |kind: u32, length: u64| (length as u32) << 3 | kind << 1;
    frame.extend(&block(0, start.len() as u64).to_le_bytes()[..3]);
    frame.extend(start);
    let mut left = unpacked - start.len() as u64;
    while left > 0 {
        let length = left.min(1 << 17);
        left -= length;
        frame.extend(&(block(1, length) | u32::from(left == 0)).to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

/// A Snappy block of one zero and copies of it, `unpacked` bytes in all.
fn snappy(unpacked: u64) -> Vec<u8> {
    let mut data = Vec::new();
    varint(&mut data, unpacked);
    data.extend([0, 0]); // a literal of one byte
    for at in (1..unpacked).step_by(64) {
        data.extend([(64.min(unpacked - at) as u8 - 1) << 2 | 2, 1, 0]);
    }
    data
}

fn picture() -> Vec<u8> {
    png(44, 44, &[])
}

/// Files with false statements in the footer or in a page, by name.
fn hostile_parquet() -> Vec<(&'static str, Vec<u8>)> {
    const GIB: u64 = 1 << 30;
    let png = picture();
    let one = page(1, PLAIN, png.len() as i64 + 4, &texts(&[&png]));
    let sound = || parquet(usual_schema(), vec![pictures(0, one.clone()), labels(1, Vec::new())], 1);
    let of = |column: Column, rows: i64, values: i64| {
        parquet(usual_schema(), vec![column, labels(values, Vec::new())], rows)
    };
    // labels of any number of rows, in a few bytes
    let many_labels = |values: i64| {
        let pages = [dictionary(1, 8, &[0; 8]), page(values, RLE_DICTIONARY, 8, &first_word(values as u64))].concat();
        Column { has_dictionary: true, ..labels(0, pages) }
    };
    let repeated = |words: Vec<u8>, values: i64, codec: i64, unpacked: i64| {
        let indices = match codec {
            ZSTD => zstd(&first_word(values as u64), first_word(values as u64).len() as u64),
            _ => first_word(values as u64),
        };
        let length = first_word(values as u64).len() as i64;
        let pages = [dictionary(1, unpacked, &words), page(values, RLE_DICTIONARY, length, &indices)].concat();
        let column = Column { has_dictionary: true, ..pictures(codec, pages) };
        parquet(usual_schema(), vec![column, many_labels(values)], values)
    };
    let footer_length = |length: u32| {
        let mut file = sound();
        let at = file.len() - 8;
        file[at..at + 4].copy_from_slice(&length.to_le_bytes());
        file
    };
    let nested = |groups: usize| {
        let mut schema = vec![group("schema", 2)];
        schema.extend((0..groups).map(|_| group("image", 1)));
        schema.extend([leaf("bytes", BYTE_ARRAY), leaf("label", INT64)]);
        parquet(schema, vec![pictures(0, one.clone()), labels(1, Vec::new())], 1)
    };
    let lengths = |encoding: i64, data: Vec<u8>| {
        let pages = page(1, encoding, data.len() as i64, &data);
        of(pictures(0, pages), 1, 1)
    };
    let compressed =
        |codec: i64, unpacked: u64, data: Vec<u8>| of(pictures(codec, page(1, PLAIN, unpacked as i64, &data)), 1, 1);
    let one_text = |unpacked: u64| (unpacked as u32 - 4).to_le_bytes();
    vec![
        ("rows", parquet(usual_schema(), vec![pictures(0, one.clone()), labels(1, Vec::new())], 1 << 62)),
        ("rows-below-zero", parquet(usual_schema(), vec![pictures(0, one.clone()), labels(1, Vec::new())], -1)),
        ("footer-length", footer_length(u32::MAX)),
        ("footer-length-2", footer_length(0x7fff_ffff)),
        ("footer-of-zeros", [&b"PAR1"[..], &vec![0; 20 << 20], &(20_u32 << 20).to_le_bytes(), b"PAR1"].concat()),
        ("children", {
            let mut schema = usual_schema();
            schema[0] = group("schema", 0x7fff_ffff);
            parquet(schema, vec![pictures(0, one.clone()), labels(1, Vec::new())], 1)
        }),
        ("children-in-children", {
            let schema: Vec<Thrift> = (0..1000).map(|_| group("g", 0x0fff_ffff)).collect();
            parquet(schema, vec![], 1)
        }),
        ("schema-elements", {
            let schema: Vec<Vec<u8>> = usual_schema().into_iter().map(Thrift::end).collect();
            parquet_of(u64::from(u32::MAX >> 1), &schema, vec![], 1)
        }),
        ("nested", nested(200_000)),
        ("page-size", compressed(ZSTD, 0x7fff_ffff, zstd(&one_text(1000), 1000))),
        ("page-size-snappy", compressed(SNAPPY, 0x7fff_ffff, snappy(1000))),
        ("zstd-bomb", compressed(ZSTD, 2 * GIB - 1, zstd(&one_text(2 * GIB - 1), 2 * GIB - 1))),
        ("zstd-bomb-in-bounds", compressed(ZSTD, 128 << 20, zstd(&one_text(128 << 20), 128 << 20))),
        ("snappy-bomb", compressed(SNAPPY, GIB, snappy(GIB))),
        ("zstd-larger-than-it-says", compressed(ZSTD, 1000, zstd(&one_text(GIB), GIB))),
        ("page-below-zero", compressed(PLAIN_CODEC, u64::MAX, texts(&[&png]))),
        ("dictionary-words", {
            let pages = [dictionary(0x7fff_ffff, 8, &[0; 8]), page(1, RLE_DICTIONARY, 4, &first_word(1))].concat();
            let labels = Column { has_dictionary: true, ..labels(0, pages) };
            parquet(usual_schema(), vec![pictures(0, one.clone()), labels], 1)
        }),
        ("dictionary-bomb", repeated(texts(&[&vec![0; 1 << 20]]), 1 << 30, PLAIN_CODEC, (1 << 20) + 4)),
        ("dictionary-bomb-of-zstd", repeated(zstd(&one_text(64 << 20), 64 << 20), 1 << 20, ZSTD, 64 << 20)),
        ("pictures-without-end", repeated(texts(&[&png]), 0x7fff_ffff, PLAIN_CODEC, png.len() as i64 + 4)),
        ("large-pictures", {
            let png = self::png(8192, 8192, &[]);
            repeated(texts(&[&png]), 1 << 20, PLAIN_CODEC, png.len() as i64 + 4)
        }),
        ("huge-picture", {
            let png = self::png(60_000, 60_000, &[]);
            of(pictures(0, page(1, PLAIN, png.len() as i64 + 4, &texts(&[&png]))), 1, 1)
        }),
        ("lengths", lengths(DELTA_LENGTH_BYTE_ARRAY, packed_zeros(1 << 40))),
        ("lengths-in-memory", lengths(DELTA_LENGTH_BYTE_ARRAY, packed_zeros(1 << 29))),
        ("prefixes", lengths(DELTA_BYTE_ARRAY, [packed_zeros(1 << 29), packed_zeros(1 << 29)].concat())),
        ("prefixes-and-more-lengths", lengths(DELTA_BYTE_ARRAY, [packed_zeros(1), packed_zeros(1 << 29)].concat())),
        ("one-row-of-lists", {
            // 2^28 digits in a row, in a few bytes: run-length encoded levels, and a dictionary of one entry
            let digits = vec![group("digits", 1), Thrift::default().i32(1, INT64).i32(3, 2).text(4, "item")];
            let mut schema =
                vec![group("schema", 3), group("image", 1), leaf("bytes", BYTE_ARRAY), leaf("label", INT64)];
            schema.extend(digits);
            let values = 1_u64 << 28;
            let levels = |runs: &[(u64, u8)]| {
                let mut data = Vec::new();
                for &(length, level) in runs {
                    varint(&mut data, length << 1);
                    data.push(level);
                }
                [&(data.len() as u32).to_le_bytes(), &data[..]].concat()
            };
            let data = [levels(&[(1, 0), (values - 1, 1)]), levels(&[(values, 1)]), first_word(values)].concat();
            let pages =
                [dictionary(1, 8, &[0; 8]), page(values as i64, RLE_DICTIONARY, data.len() as i64, &data)].concat();
            let digits = Column { path: &["digits", "item"], kind: INT64, codec: 0, pages, has_dictionary: true };
            parquet(schema, vec![pictures(0, one.clone()), labels(1, Vec::new()), digits], 1)
        }),
        ("a-reader-breaks", {
            // a block of numbers under a header that declares none
            let labels = labels(0, page(1, DELTA_BINARY_PACKED, 7, &[128, 1, 1, 0, 0, 0, 0]));
            parquet(usual_schema(), vec![pictures(0, one.clone()), labels], 1)
        }),
        ("no-text", {
            // a JSON column, which the reader assumes to be UTF-8
            let schema = vec![group("schema", 2), leaf("image", BYTE_ARRAY).i32(6, 19), leaf("label", INT64)];
            let text = page(1, PLAIN, 6, &texts(&[&[0xff, 0xfe]]));
            let column = Column { path: &["image"], ..pictures(0, text) };
            parquet(schema, vec![column, labels(1, Vec::new())], 1)
        }),
    ]
}

#[test]
fn a_hostile_parquet_file_is_refused_by_an_evaluation_and_looked_into_calmly() {
    let home = copy_of_home();
    for (name, bytes) in hostile_parquet() {
        let file = format!("{name}.parquet");
        fs::write(home.path(&file), bytes).unwrap();
        let looked = limited(&home, &["inspect", &file]);
        assert_calm(&format!("inspect {name}"), &looked);
        assert!(looked.code == Some(0) || looked.stderr.contains(&file), "inspect {name}: {}", looked.stderr);
        assert_eq!(looked.stdout.contains("Invalid UTF8"), name == "no-text", "inspect {name}: {}", looked.stdout);
        let set = format!("evaluate.data={file}");
        let answer = limited(&home, &["run", "evaluate", "--set", &set]);
        assert_refused(name, &file, &answer);
        assert_eq!(answer.stderr.contains("broke on it"), name == "a-reader-breaks", "{name}: {}", answer.stderr);
    }
}

// ---- PNG

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut sum = flate2::Crc::new();
    sum.update(kind);
    sum.update(data);
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, &sum.sum().to_be_bytes()].concat()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A grey image with a declared size and further chunks. It holds at most 16 MB of black.
fn png(width: u32, height: u32, more: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let pixels = (u64::from(width + 1) * u64::from(height)).min(16 << 20);
    let (header, data) = (chunk(b"IHDR", &header), chunk(b"IDAT", &zlib(&vec![0; pixels as usize])));
    [b"\x89PNG\r\n\x1a\n".to_vec(), header, more.concat(), data, chunk(b"IEND", &[])].concat()
}

#[test]
fn a_hostile_picture_is_refused_or_answered_without_what_it_unpacks_to() {
    let home = home();
    let bomb = zlib(&vec![b'x'; 256 << 20]);
    let packed = |kind: &[u8; 4], start: &[u8]| chunk(kind, &[start, &bomb].concat());
    // (name, bytes, whether the file contains a valid image of the network's size)
    let pictures = [
        ("size", png(60_000, 60_000, &[]), false),
        ("largest-size", png(0x7fff_ffff, 0x7fff_ffff, &[]), false),
        ("no-size", png(0, 0, &[]), false),
        (
            "pixels",
            {
                // far more data than the declared size
                let all = png(44, 44, &[]);
                let end = chunk(b"IDAT", &zlib(&vec![0; 512 << 20]));
                [&all[..33], &end, &chunk(b"IEND", &[])].concat()
            },
            true,
        ),
        ("ztxt", png(44, 44, &[packed(b"zTXt", b"a\0\0")]), true),
        ("itxt", png(44, 44, &[packed(b"iTXt", b"a\0\x01\0\0\0")]), true),
        ("iccp", png(44, 44, &[packed(b"iCCP", b"a\0\0")]), true),
        ("many-texts", png(44, 44, &vec![chunk(b"tEXt", b"a\0b"); 500_000]), true),
        ("chunk-length", [&png(44, 44, &[])[..33], &[0xff; 4], b"zTXt"].concat(), false),
        (
            "long-file",
            {
                let mut bytes = picture();
                bytes.resize(65 << 20, 0);
                bytes
            },
            false,
        ),
    ];
    for (name, bytes, is_sound) in pictures {
        let file = format!("{name}.png");
        fs::write(home.path(&file), bytes).unwrap();
        let answer = limited(home, &["predict", &file]);
        match answer.code {
            Some(0) if is_sound => assert_calm(name, &answer),
            _ => assert_refused(name, &file, &answer),
        }
    }
}

// ---- weights and checkpoints

fn safetensors(length: u64, header: &str, data: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), header.as_bytes(), data].concat()
}

fn hostile_tensors() -> Vec<(&'static str, Vec<u8>)> {
    let of = |header: &str| safetensors(header.len() as u64, header, &[0; 16]);
    let description = |model: &str, digits: u64, side: u64| {
        format!(
            r#"{{"__metadata__":{{"multidigit":"{{\"model\":\"{model}\",\"digits\":{digits},\"height\":{side},\"width\":{side},\"mean\":0.1,\"std\":0.3,\"epoch\":1}}"}},"a":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}}}"#
        )
    };
    let tensor = |shape: &str, begin: u64, end: u64| {
        format!(
            r#"{{"__metadata__":{{"multidigit":"{{}}"}},"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#
        )
    };
    let deep = format!(r#"{{"__metadata__":{{"multidigit":"{}"}}}}"#, "[".repeat(1_000_000));
    vec![
        ("header-length", safetensors(1 << 60, "{}", &[])),
        ("header-length-wraps", safetensors(u64::MAX - 4, "{}", &[])),
        ("offsets", of(&tensor("[4]", 0, u64::MAX))),
        ("offsets-back", of(&tensor("[4]", 16, 0))),
        ("shape", of(&tensor("[4294967296,4294967296,16]", 0, 16))),
        ("shape-of-many", of(&tensor(&format!("[{}0]", "0,".repeat(1_000_000)), 0, 16))),
        ("deep-header", of(&"[".repeat(1_000_000))),
        ("deep-description", of(&deep)),
        ("network-of-any-size", of(&description("alexnet", 64, 4096))),
        ("network-of-many-digits", of(&description("fcn", u64::MAX, 64))),
        ("no-network", of(&description("resnet", 64, 4096))),
        ("long", safetensors(2, "{}", &vec![0; 600 << 20])),
    ]
}

#[test]
fn hostile_weights_are_refused() {
    let home = copy_of_home();
    fs::write(home.path("a.png"), picture()).unwrap();
    let run = home.path("artifacts/train/r");
    fs::remove_file(run.join("record.json")).unwrap(); // because every change would differ from its digest
    assert_eq!(limited(&home, &["predict", "a.png"]).code, Some(0));
    for (name, bytes) in hostile_tensors() {
        fs::write(run.join("weights/best.safetensors"), bytes).unwrap();
        assert_refused(name, "best.safetensors", &limited(&home, &["predict", "a.png"]));
    }
}

#[test]
fn a_hostile_checkpoint_is_refused() {
    let home = copy_of_home();
    let run = unfinished(&home);
    for (name, bytes) in hostile_tensors() {
        fs::write(run.join("checkpoint.safetensors"), bytes).unwrap();
        assert_refused(name, "checkpoint.safetensors", &limited(&home, &["run", "train"]));
    }
}

// ---- IDX and gzip

fn idx(dimensions: &[u32], body: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|dimension| file.extend(dimension.to_be_bytes()));
    [file, body.to_vec()].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn hostile_glyphs_are_refused() {
    let home = Home::with(&["raw.source=./glyphs"]);
    let name = |stem: &str, ending: &str| home.path(&format!("glyphs/{stem}-ubyte{ending}"));
    let sound = [
        ("train-images-idx3", idx(&[2, 28, 28], &[0; 2 * 784])),
        ("train-labels-idx1", idx(&[2], &[1, 2])),
        ("t10k-images-idx3", idx(&[2, 28, 28], &[0; 2 * 784])),
        ("t10k-labels-idx1", idx(&[2], &[3, 4])),
    ];
    fs::create_dir(home.path("glyphs")).unwrap();
    for (stem, bytes) in &sound {
        fs::write(name(stem, ""), bytes).unwrap();
    }
    let zeros = vec![0; 64 << 20];
    let hostile = [
        ("images", "", idx(&[u32::MAX, 28, 28], &[])),
        ("images", "", idx(&[u32::MAX, u32::MAX, u32::MAX], &[])),
        ("images", "", [&[0, 0, 8, 255][..], &[255; 1020]].concat()),
        ("labels", "", idx(&[u32::MAX], &[0; 100])),
        ("images", ".gz", gzip(&idx(&[10_000_000, 28, 28], &zeros))),
        ("labels", ".gz", gzip(&idx(&[10_000_000], &zeros))),
        ("labels", ".gz", gzip(&[&idx(&[2], &[1, 2])[..], &zeros].concat())),
        // every member is empty
        ("labels", ".gz", [gzip(&idx(&[9_000_000], &[])), gzip(&[]).repeat(500_000)].concat()),
        // an endless name
        ("labels", ".gz", [&[0x1f, 0x8b, 8, 0x08, 0, 0, 0, 0, 0, 3][..], &vec![b'n'; 32 << 20]].concat()),
    ];
    for (number, (kind, ending, bytes)) in hostile.into_iter().enumerate() {
        let stem = sound.iter().find(|(stem, _)| stem.contains(&format!("train-{kind}"))).unwrap();
        fs::remove_file(name(stem.0, "")).unwrap();
        fs::write(name(stem.0, ending), bytes).unwrap();
        assert_refused(&format!("{number}: {kind}{ending}"), stem.0, &limited(&home, &["run", "plan"]));
        let file = format!("glyphs/{}-ubyte{ending}", stem.0);
        assert_calm(&format!("inspect {number}"), &limited(&home, &["inspect", &file]));
        fs::remove_file(name(stem.0, ending)).unwrap();
        fs::write(name(stem.0, ""), &stem.1).unwrap();
    }
}

// ---- texts

/// Small YAML documents that expand to large ones, or do not end.
fn hostile_yaml() -> Vec<(&'static str, String)> {
    let laughs: String =
        (1..=9).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))).collect();
    let merges: String = (1..=20).map(|n| format!("m{n}: &m{n} {{<<: [*m{0}, *m{0}], k{n}: 1}}\n", n - 1)).collect();
    vec![
        ("laughs", format!("a0: &a0 [x]\n{laughs}")),
        ("laughs-in-a-list", format!("raw:\n  mirrors: &a0 [x]\nplan: &b {{seed: [*a0, *a0]}}\n{laughs}")),
        ("merges", format!("m0: &m0 {{a: 1}}\n{merges}")),
        ("itself", "plan: &a {seed: *a}\n".to_owned()),
        ("deep-lists", format!("plan: {}", "[".repeat(1_000_000))),
        ("deep-maps", format!("plan: {}", "{a: ".repeat(1_000_000))),
        ("deep-blocks", (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()),
        ("deep-dashes", format!("plan: \n{}", "- ".repeat(1_000_000))),
        ("long-text", format!("raw:\n  source: {}\n", "x".repeat(100 << 20))),
        ("long-key", format!("{}: 1\n", "k".repeat(15 << 20))),
        ("long-comment", format!("# {}\nplan: 1\n", "x".repeat(15 << 20))),
        ("many-anchors", (0..300_000).map(|n| format!("a{n}: &a{n} 1\n")).collect()),
        ("many-documents", "---\n".repeat(2_000_000)),
        ("long-number", format!("plan:\n  seed: {}\n", "9".repeat(10_000_000))),
    ]
}

#[test]
fn a_hostile_configuration_is_refused() {
    let home = copy_of_home();
    for (name, text) in hostile_yaml() {
        let file = format!("{name}.yaml");
        fs::write(home.path(&file), &text).unwrap();
        assert_refused(name, &file, &limited(&home, &["show-config", "--config", &file]));
        if text.len() < 100_000 {
            let set = format!("raw.mirrors={}", text.replace('\n', " "));
            assert_calm(name, &limited(&home, &["show-config", "--set", &set]));
        }
    }
}

#[test]
fn the_settings_of_a_run_that_are_hostile_are_a_problem_of_that_run() {
    let home = copy_of_home();
    let run = unfinished(&home);
    for (name, text) in hostile_yaml() {
        fs::write(run.join("config.yaml"), text).unwrap();
        assert_refused(name, "config.yaml", &limited(&home, &["predict", "--run", "r", "a.png"]));
        assert_calm(name, &limited(&home, &["runs"]));
    }
}

#[test]
fn hostile_records_locks_and_tables_are_refused_or_said_of_their_run() {
    let home = copy_of_home();
    let deep = |open: &str| format!(r#"{{"key": {}"#, open.repeat(1_000_000));
    let json = [
        ("deep-lists", deep("[")),
        ("deep-maps", deep(r#"{"a":"#)),
        ("many-lists", format!("[{}[]]", "[],".repeat(5_000_000))),
        ("long-text", format!(r#"{{"about": "{}"}}"#, "x".repeat(100 << 20))),
        ("long-number", format!(r#"{{"rows": {}}}"#, "9".repeat(10_000_000))),
        ("many-keys", format!("{{{}\"z\":0}}", (0..700_000).map(|n| format!("\"{n}\":{{}},")).collect::<String>())),
    ];
    let places: [(&str, &[&str]); 6] = [
        ("artifacts/plan/record.json", &["run", "plan"]),
        ("artifacts/dataset/record.json", &["verify"]),
        ("artifacts/train/r/record.json", &["predict", "a.png"]),
        ("pipeline.lock", &["verify"]),
        ("artifacts/train/r/env.json", &["runs"]),
        ("artifacts/train/r/metrics.csv", &["runs"]),
    ];
    fs::write(home.path("a.png"), picture()).unwrap();
    for (place, arguments) in places {
        let path = home.path(place);
        let before = fs::read(&path).ok();
        for (name, text) in &json {
            fs::write(&path, text).unwrap();
            let answer = limited(&home, arguments);
            assert_calm(&format!("{place}: {name}"), &answer);
            let said = format!("{}{}", answer.stdout, answer.stderr);
            assert!(said.contains(file_name(&path)), "{place}: {name}: {said}");
        }
        match before {
            Some(before) => fs::write(&path, before).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    }
}

#[test]
fn a_table_of_epochs_with_a_line_without_end_is_said_of_its_run() {
    let home = copy_of_home();
    let run = unfinished(&home);
    let header = fs::read_to_string(run.join("metrics.csv")).unwrap().lines().next().unwrap().to_owned();
    let tables = [
        format!("{header}\n1,{}", "1,".repeat(7_000_000)),
        format!("{header},{}", "x,".repeat(7_000_000)),
        format!("{header}\n{}", "9".repeat(15 << 20)),
        "x".repeat(100 << 20),
        "\n".repeat(15 << 20),
    ];
    for (number, table) in tables.iter().enumerate() {
        fs::write(run.join("metrics.csv"), table).unwrap();
        let answer = limited(&home, &["runs"]);
        assert_calm(&format!("table {number}"), &answer);
        let said = answer.stdout + &answer.stderr;
        assert!(
            said.contains("metrics.csv") && said.len() < 10_000,
            "table {number}: {} bytes: {}",
            said.len(),
            &said[..said.len().min(500)]
        );
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}
