//! Tests of faulty mirrors: the program reports the fault of each, leaves no files behind, and
//! continues with the next mirror.
//!
//! Mirrors that are silent, or send a byte occasionally, are tested in src/raw/fetch/tests.rs with short time limits.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::Cases;
use crate::home::{Answer, bare};

/// The response of a server to a connection, after the request has been read.
type Behaviour = fn(&mut TcpStream, &str) -> std::io::Result<()>;

const BEHAVIOURS: [(&str, Behaviour); 14] = [
    ("has no such file", |to, _| to.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
    ("is always busy", |to, _| to.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")),
    ("answers nothing", |_, _| Ok(())),
    ("speaks no HTTP", |to, _| to.write_all(b"220 mail.example ESMTP\r\n")),
    ("sends a header without end", |to, _| {
        loop {
            to.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
            to.write_all(&[b'x'; 4096])?;
        }
    }),
    ("cuts the body", |to, _| to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9912422\r\n\r\n\x1f\x8b\x08")),
    ("breaks its chunks", |to, _| {
        to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc")
    }),
    ("sends a page", |to, _| {
        let page = "<!DOCTYPE html><title>Sign in</title>";
        to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()).as_bytes())
    }),
    ("announces too much", |to, _| to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")),
    ("never ends", |to, _| {
        to.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            to.write_all(&[0; 1 << 16])?;
        }
    }),
    ("sends other digits", |to, _| send(to, &[0; 60_000 * 784], 1)),
    ("sends what unpacks without end", |to, _| send(to, &vec![0; 1 << 26], 32)),
    ("redirects in a circle", |to, own| {
        to.write_all(format!("HTTP/1.1 302 Found\r\nLocation: {own}\r\nContent-Length: 0\r\n\r\n").as_bytes())
    }),
    ("redirects to a file", |to, _| {
        to.write_all(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")
    }),
];

/// Sends a compressed IDX file of images that consists of `times` copies of these pixels.
fn send(to: &mut TcpStream, pixels: &[u8], times: usize) -> std::io::Result<()> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&[0, 0, 8, 3, 0, 0, 0xea, 0x60, 0, 0, 0, 28, 0, 0, 0, 28])?;
    for _ in 0..times {
        packed.write_all(pixels)?;
    }
    let packed = packed.finish()?;
    to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", packed.len()).as_bytes())?;
    to.write_all(&packed)
}

/// Starts a server with this behaviour, which runs until the tests end. Returns its address.
fn serve(behaves: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let own = address.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, own) = (stream.unwrap(), own.clone());
            std::thread::spawn(move || {
                let mut byte = [0];
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    request.push(byte[0]);
                }
                // a client that refuses the response closes the connection
                let _ = behaves(&mut stream, &own);
            });
        }
    });
    address
}

fn run_raw(home: &Path, mirrors: &str) -> Answer {
    let mut command = bare(home);
    // a working mirror must not be reached by accident
    command.args(["run", "raw", "--quiet", "--set", "raw.mirrors=[]"]).env("MULTIDIGIT_MIRRORS", mirrors);
    Answer::of(command.output().expect("the program starts"))
}

#[test]
fn a_mirror_that_misbehaves_is_named_and_leaves_nothing_behind() {
    let mut cases = Cases::new("mirrors");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut mirrors = vec![("is not there", format!("http://{closed}/"))];
    mirrors.extend(BEHAVIOURS.map(|(what, behaves)| (what, serve(behaves))));
    let good = std::env::var("MULTIDIGIT_TEST_MNIST").ok();
    if good.is_none() {
        eprintln!("skipped: the next mirror behaves, as MULTIDIGIT_TEST_MNIST names no folder with MNIST");
    }
    for (what, mirror) in &mirrors {
        let home = tempfile::tempdir().unwrap();
        let answer = run_raw(home.path(), mirror);
        let left = multidigit::files::walk_all(&home.path().join("raw")).unwrap();
        let mut lost = Vec::new();
        let mut require = |expected: &str, holds: bool| {
            if !holds {
                lost.push(format!("a mirror that {what}: not so: {expected}\n{left:?}\n{}", answer.stderr));
            }
        };
        require("the stage fails", answer.code == Some(1));
        require("the mirror is named", answer.stderr.contains(mirror.trim_end_matches('/')));
        require("no library broke", !answer.stderr.contains("panicked"));
        require("nothing is left but a lock", left.iter().all(|path| path.ends_with(".lock")));
        if let Some(good) = &good {
            let next = run_raw(home.path(), &format!("{mirror},{good}"));
            require(&format!("the next mirror is asked ({})", next.stderr), next.code == Some(0));
        }
        cases.add(lost);
    }
    cases.end();
}
