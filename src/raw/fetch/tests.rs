use std::fs;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use crate::progress::Event;
use crate::raw::idx::Kind;
use crate::raw::idx::tests::{file, packed};

/// The behaviour of the server on one connection: it sends the bytes, then does `then`.
#[derive(Clone)]
struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    /// Sends nothing more until the client gives up.
    Stall,
    /// Sends a byte every 50 ms until the client gives up.
    Drip,
}

/// Starts a server on this machine that gives one answer to each connection in turn. Returns its address and the
/// requests that it receives.
fn serve(answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/mnist/", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            log.lock().unwrap().push(request_line(&mut stream));
            // a client that refuses the response closes the connection early
            let _ = stream.write_all(&answer.bytes);
            match answer.then {
                Then::Close => {}
                Then::Stall => drop(stream.read(&mut [0])),
                Then::Drip => {
                    while stream.write_all(&[0]).is_ok() {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    });
    (address, requests)
}

fn request_line(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap().lines().next().unwrap().to_owned()
}

fn answer(status: &str, length: usize, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    Answer { bytes: [head.as_bytes(), body].concat(), then: Then::Close }
}

fn ok(body: &[u8]) -> Answer {
    answer("200 OK", body.len(), body)
}

fn content() -> Vec<u8> {
    file(&[3], &[1, 2, 3])
}

/// The training labels, as if MNIST had only three.
fn part() -> Part {
    use sha2::Digest;
    Part {
        name: "train-labels-idx1-ubyte",
        other_name: "train-labels.idx1-ubyte",
        kind: Kind::Labels,
        mnist_sha256: hex(&sha2::Sha256::digest(content()).into()).leak(),
    }
}

fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        idle: Duration::from_millis(250),
        total: Duration::from_secs(20),
        pause: Duration::from_millis(1),
        bytes: 10_000,
    }
}

/// Fetches from a server with the given answers. Returns the result, with the address shortened, and the
/// number of requests.
fn outcome(answers: Vec<Answer>) -> (Result<Vec<u8>, String>, usize) {
    outcome_within(&limits(), answers)
}

fn outcome_within(limits: &Limits, answers: Vec<Answer>) -> (Result<Vec<u8>, String>, usize) {
    let home = tempfile::tempdir().unwrap();
    let (address, requests) = serve(answers);
    let mirror = Mirror::parse(&address, "raw.mirrors").unwrap();
    let result = match mirror.fetch(&part(), home.path(), limits, &Progress::silent()) {
        Ok(path) => {
            assert_eq!(path, home.path().join("train-labels-idx1-ubyte.gz"));
            Ok(fs::read(path).unwrap())
        }
        Err(error) => Err(error.to_string().replace(&address, "http://m/")),
    };
    let requests = requests.lock().unwrap();
    for request in requests.iter() {
        assert_eq!(request, "GET /mnist/train-labels-idx1-ubyte.gz HTTP/1.1");
    }
    (result, requests.len())
}

#[test]
fn a_file_is_downloaded_verified_and_put_in_place() {
    let body = packed(&content());
    assert_eq!(outcome(vec![ok(&body)]), (Ok(body), 1));
}

#[test]
fn progress_counts_the_bytes_and_can_stop_a_download() {
    let body = packed(&content());
    let home = tempfile::tempdir().unwrap();
    let fetch = |sink: &(dyn Fn(Event) -> bool + Sync)| {
        let (address, _) = serve(vec![ok(&body)]);
        Mirror::Url(address).fetch(&part(), home.path(), &limits(), &Progress::new(sink))
    };
    let (begun, advanced) = (Mutex::new(Vec::new()), Mutex::new(0));
    fetch(&|event| {
        match event {
            Event::Advance(bytes) => *advanced.lock().unwrap() += bytes,
            other => begun.lock().unwrap().push(format!("{other:?}")),
        }
        true
    })
    .unwrap();
    let begin = "Begin { what: \"fetching train-labels-idx1-ubyte.gz\"";
    let n = body.len();
    assert_eq!(
        begun.into_inner().unwrap(),
        [format!("{begin}, total: {n}, done: 0, unit: \"bytes\" }}"), "End".to_owned()]
    );
    assert_eq!(advanced.into_inner().unwrap(), n as u64);
    assert!(matches!(fetch(&|_| false), Err(Error::Interrupted)));
}

#[test]
fn a_missing_page_is_an_error_at_once() {
    let expected = "`http://m/train-labels-idx1-ubyte.gz`: found HTTP status 404; expected 200".to_owned();
    assert_eq!(outcome(vec![answer("404 Not Found", 0, b""), ok(b"never asked")]), (Err(expected), 1));
}

#[test]
fn a_busy_server_is_asked_three_times() {
    let busy = answer("503 Service Unavailable", 0, b"");
    let body = packed(&content());
    assert_eq!(outcome(vec![busy.clone(), busy.clone(), ok(&body)]), (Ok(body), 3));
    let expected = "`http://m/train-labels-idx1-ubyte.gz`: found HTTP status 503; expected 200".to_owned();
    assert_eq!(outcome(vec![busy.clone(), busy.clone(), busy.clone(), busy]), (Err(expected), 3));
}

#[test]
fn a_short_body_is_asked_for_again_and_then_refused() {
    let body = packed(&content());
    let short = answer("200 OK", body.len(), &body[..20]);
    let expected = "`http://m/train-labels-idx1-ubyte.gz`: the connection ended after 20 bytes, before the file did";
    assert_eq!(outcome(vec![short.clone(), short.clone(), short.clone()]), (Err(expected.to_owned()), 3));
    assert_eq!(outcome(vec![short, ok(&body)]), (Ok(body), 2));
}

#[test]
fn a_page_instead_of_a_file_is_named() {
    let expected =
        "`http://m/train-labels-idx1-ubyte.gz`: found an HTML page; expected gzip data, as the name ends in .gz";
    assert_eq!(outcome(vec![ok(b"<!doctype html><title>Sign in</title>")]), (Err(expected.to_owned()), 1));
}

#[test]
fn an_oversized_file_is_refused_announced_or_not() {
    let expected = "`http://m/train-labels-idx1-ubyte.gz`: more than 10000 bytes; expected a file of at most that size";
    assert_eq!(outcome(vec![answer("200 OK", 10_001, b"")]), (Err(expected.to_owned()), 1));
    let endless = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), &[0; 20_000]].concat();
    assert_eq!(outcome(vec![Answer { bytes: endless, then: Then::Close }]), (Err(expected.to_owned()), 1));
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let body = packed(&content());
    let silent = Answer { then: Then::Stall, ..answer("200 OK", body.len(), &body[..20]) };
    let expected = "`http://m/train-labels-idx1-ubyte.gz`: timed out (no byte for 0.25 s)";
    assert_eq!(outcome(vec![silent; 3]), (Err(expected.to_owned()), 3));
    let mute = Answer { bytes: Vec::new(), then: Then::Stall };
    assert_eq!(outcome(vec![mute.clone(), mute, ok(&body)]), (Ok(body), 3));
}

#[test]
fn all_attempts_together_have_one_limit_of_time() {
    let body = packed(&content());
    let expected = "`http://m/train-labels-idx1-ubyte.gz`: timed out (not done in 0.6 s, all attempts together)";
    let limits = Limits { total: Duration::from_millis(600), ..limits() };
    // a steady trickle never triggers the idle limit, so the first attempt uses up all the time and there is no second
    let drip = Answer { then: Then::Drip, ..answer("200 OK", 10_000, &body[..20]) };
    assert_eq!(outcome_within(&limits, vec![drip.clone(), drip]), (Err(expected.to_owned()), 1));
    // three idle times of 0.25 s exceed the total
    let silent = Answer { then: Then::Stall, ..answer("200 OK", body.len(), &body[..20]) };
    assert_eq!(outcome_within(&limits, vec![silent; 3]).0, Err(expected.to_owned()));
}

/// Fetches with long time-outs, and asks to stop 300 ms after `is_reached` first returns true. Asserts that the fetch
/// is interrupted within two seconds.
fn interrupted_where(mirror: &Mirror, is_reached: &(dyn Fn() -> bool + Sync)) {
    let long = Duration::from_secs(30);
    let limits = Limits { connect: long, idle: long, total: 3 * long, pause: long, bytes: 10_000 };
    let since = Mutex::new(None);
    let sink = |_: Event| {
        let mut since = since.lock().unwrap();
        if since.is_none() && is_reached() {
            *since = Some(Instant::now());
        }
        since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300))
    };
    let home = tempfile::tempdir().unwrap();
    let error = mirror.fetch(&part(), home.path(), &limits, &Progress::new(&sink)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    let took = since.lock().unwrap().unwrap().elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn an_interruption_is_heard_while_a_server_keeps_silent() {
    let body = packed(&content());
    for (answer, phase) in [
        (Answer { bytes: Vec::new(), then: Then::Stall }, "before the first byte"),
        (Answer { then: Then::Stall, ..answer("200 OK", body.len(), &body[..20]) }, "between bytes"),
        (answer("503 Service Unavailable", 0, b""), "between attempts"),
    ] {
        let (address, requests) = serve(vec![answer]);
        interrupted_where(&Mirror::Url(address), &|| !requests.lock().unwrap().is_empty());
        assert_eq!(requests.lock().unwrap().len(), 1, "{phase}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn an_interruption_is_heard_while_a_connection_is_made() {
    // this listener accepts no connection; once its queue is full, Linux does not answer a connection's first packet
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(stream);
    }
    interrupted_where(&Mirror::Url(format!("http://{address}/")), &|| true);
}

#[test]
fn an_interruption_is_heard_whatever_a_request_waits_for() {
    // a slow look-up of a name looks like a thread that sends nothing
    let (sender, pieces) = sync_channel(1);
    let begun = Instant::now();
    let sink = |_: Event| begun.elapsed() < Duration::from_millis(300);
    let deadline = begun + Duration::from_secs(30);
    let error = next(&pieces, "https://m/x", deadline, &limits(), &Progress::new(&sink)).err().unwrap();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    // a thread that ended without sending an error ends the wait
    drop(sender);
    let error = next(&pieces, "https://m/x", deadline, &limits(), &Progress::silent()).err().unwrap();
    assert_eq!(error.to_string(), "`https://m/x`: not reached: the request ended without an answer");
}

#[test]
fn another_content_is_refused() {
    let other = packed(&file(&[3], &[1, 2, 4]));
    let expected = format!(
        "`http://m/train-labels-idx1-ubyte.gz`: SHA-256 {} (unpacked); expected MNIST's {}",
        // sha256sum of 0000 0801 0000 0003 01 02 04
        "8a787d473f2c1175d11aa6c6d9e8576f9c94108aa87cabce3bc97df4d71ca7ea",
        part().mnist_sha256
    );
    assert_eq!(outcome(vec![ok(&other)]), (Err(expected), 1));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let home = tempfile::tempdir().unwrap();
    let error = Mirror::Url(base.clone()).fetch(&part(), home.path(), &limits(), &Progress::silent()).unwrap_err();
    let Some(RawError::MirrorUnreached { url, message }) = error.area() else { panic!("{error}") };
    assert_eq!(*url, format!("{base}/train-labels-idx1-ubyte.gz"));
    assert_eq!(error.to_string(), format!("`{url}`: not reached: {message}"));
    assert!(message.to_lowercase().contains("refused"), "{message}");
}

#[test]
fn a_folder_serves_under_either_naming() {
    let (packed, plain) = (packed(&content()), content());
    for (name, bytes, target) in [
        ("train-labels-idx1-ubyte.gz", &packed, "train-labels-idx1-ubyte.gz"),
        ("train-labels.idx1-ubyte.gz", &packed, "train-labels-idx1-ubyte.gz"),
        ("train-labels.idx1-ubyte", &plain, "train-labels-idx1-ubyte"),
    ] {
        let (mirror, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(mirror.path().join(name), bytes).unwrap();
        let from = Mirror::parse(mirror.path().to_str().unwrap(), "raw.mirrors").unwrap();
        let path = from.fetch(&part(), home.path(), &limits(), &Progress::silent()).unwrap();
        assert_eq!(path, home.path().join(target));
        assert_eq!(fs::read(path).unwrap(), *bytes);
    }
}

#[test]
fn a_file_that_nobody_may_write_is_no_obstacle_to_the_next_mirror() {
    let (wrong, right, home) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = "train-labels-idx1-ubyte";
    fs::write(wrong.path().join(name), file(&[3], &[9, 9, 9])).unwrap();
    let mut permissions = fs::metadata(wrong.path().join(name)).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(wrong.path().join(name), permissions).unwrap();
    fs::write(right.path().join(name), content()).unwrap();
    let fetch =
        |from: &Path| Mirror::Folder(from.to_owned()).fetch(&part(), home.path(), &limits(), &Progress::silent());
    assert!(matches!(fetch(wrong.path()).unwrap_err().area(), Some(RawError::MirrorDigest { .. })));
    assert!(!fs::metadata(home.path().join(name)).unwrap().permissions().readonly());
    assert_eq!(fs::read(fetch(right.path()).unwrap()).unwrap(), content());
}

#[test]
fn a_folder_without_the_file_is_named() {
    let raw = tempfile::tempdir().unwrap();
    let from = Mirror::parse("no/such/folder", "raw.mirrors").unwrap();
    assert_eq!(
        from.fetch(&part(), raw.path(), &limits(), &Progress::silent()).unwrap_err().to_string(),
        "`no/such/folder`: holds no train-labels-idx1-ubyte, under either naming, with or without .gz"
    );
}

#[test]
fn only_https_is_spoken_with_other_machines() {
    let parse = |text| Mirror::parse(text, "raw.mirrors");
    for good in ["https://example.org/mnist/", "http://127.0.0.1:80/x", "http://localhost/"] {
        assert_eq!(parse(good).unwrap(), Mirror::Url(good.to_owned()));
    }
    for bad in ["http://example.org/", "ftp://example.org/", "http://localhost:1@example.org/", "https://", "", "://"] {
        assert_eq!(
            parse(bad).unwrap_err().to_string(),
            format!(
                "`raw.mirrors`: found `{bad}`; expected an https:// address or a folder (http:// only for 127.0.0.1 \
                 and localhost)"
            )
        );
    }
}

#[test]
fn a_scheme_in_capitals_is_the_same() {
    let parse = |text| Mirror::parse(text, "raw.mirrors").unwrap();
    assert_eq!(parse("HTTPS://example.org/Mnist"), Mirror::Url("https://example.org/Mnist".to_owned()));
    let body = packed(&content());
    let (address, _) = serve(vec![ok(&body)]);
    let home = tempfile::tempdir().unwrap();
    let mirror = parse(&address.replace("http:", "HTTP:"));
    let path = mirror.fetch(&part(), home.path(), &limits(), &Progress::silent()).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    assert!(Mirror::parse("HTTP://example.org/", "raw.mirrors").is_err());
}

#[test]
fn https_is_spoken_and_its_failure_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 3];
        stream.read_exact(&mut hello).unwrap();
        // the first bytes of a TLS handshake (RFC 8446, 5.1), which show that the request was not sent as plain text
        assert_eq!(hello[..2], [22, 3]);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        let _ = stream.read(&mut [0; 4096]);
    });
    let home = tempfile::tempdir().unwrap();
    let error = Mirror::Url(base).fetch(&part(), home.path(), &limits(), &Progress::silent()).unwrap_err();
    let Some(RawError::MirrorUnreached { message, .. }) = error.area() else { panic!("{error}") };
    assert!(message.contains("InvalidContentType"), "{message}");
}
