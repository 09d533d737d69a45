//! Object stores as a place of outputs: S3, Google Cloud Storage, Azure Blob Storage, or a folder, by their address.
//!
//! An object appears whole or not at all. No object is ever replaced: one that stands in the place of another must have the same
//! bytes. Writers that are repeated, or that run at the same time, therefore agree.
//!
//! Credentials come from the environment, by the names that the stores' own tools use, such as `AWS_ACCESS_KEY_ID`. An address
//! that holds some is refused, and no error repeats them.

use std::error::Error as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use object_store::local::LocalFileSystem;
use object_store::path::Path as Name;
use object_store::{ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutPayload, parse_url_opts};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use url::Url;

use crate::error::{Error, Result};
use crate::files::{self, sync};
use crate::progress::Progress;

/// The flag that names the store.
const FLAG: &str = "--artifacts";

/// The addresses that are understood, for errors.
const ADDRESSES: &str = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER";

/// The beginnings of the names of the environment variables that configure a store.
const VARIABLES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// The number of uploads, and of small requests, at the same time.
const UPLOADS: usize = 4;
const REQUESTS: usize = 32;

/// The number of times that a put is repeated after an error that may pass, and the first pause before it. The library itself
/// repeats what surely did not arrive; this is for requests of which nobody knows whether they did.
const REPEATS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// The size of the pieces in which objects are fetched.
const PIECE: u64 = 16 << 20;

/// The time after which a request that is under way looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The address at which Amazon's machines find the credentials of their role. It is asked if the environment has none.
const METADATA: &str = "169.254.";

/// An object store, with the prefix of all names.
pub struct Store<'a> {
    /// The address without a slash at its end.
    address: String,
    /// Tells whether the user wants to stop.
    progress: Progress<'a>,
    objects: Arc<dyn ObjectStore>,
    prefix: Name,
    runtime: Runtime,
}

impl<'a> Store<'a> {
    /// Opens the store at an address. No request is made. All requests end with [`Error::Interrupted`] when `progress` says so.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] if the address is not one of a store, or if it holds credentials; [`Error::Format`] if the
    /// environment does not say how to reach it.
    pub fn open(address: &str, progress: Progress<'a>) -> Result<Store<'a>> {
        let url = Url::parse(address).map_err(|error| Error::value(FLAG, error, ADDRESSES))?;
        let scheme = ObjectStoreScheme::parse(&url).map(|(scheme, _)| scheme);
        // the addresses of Azure name the container where others have a user
        let has_user = !url.username().is_empty() && !matches!(scheme, Ok(ObjectStoreScheme::MicrosoftAzure));
        if has_user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            let expected = format!("{ADDRESSES}; credentials come from the environment");
            return Err(Error::value(FLAG, "an address with a user, a password, `?` or `#`", expected));
        }
        let address = address.trim_end_matches('/').to_owned();
        let (objects, prefix): (Arc<dyn ObjectStore>, Name) = match scheme {
            Ok(ObjectStoreScheme::Local) => {
                let prefix = Name::from_url_path(url.path()).map_err(|error| Error::value(FLAG, error, ADDRESSES))?;
                (Arc::new(LocalFileSystem::new().with_fsync(sync::waits())), prefix)
            }
            Ok(
                ObjectStoreScheme::AmazonS3 | ObjectStoreScheme::GoogleCloudStorage | ObjectStoreScheme::MicrosoftAzure,
            ) => {
                // an error says that another provider was chosen before, which serves as well
                let _ = rustls::crypto::ring::default_provider().install_default();
                let (objects, prefix) = parse_url_opts(&url, variables()?).map_err(|error| {
                    let expected = "the environment variables of the store, such as AWS_ACCESS_KEY_ID and \
                                    AWS_SECRET_ACCESS_KEY of S3";
                    Error::format(Path::new(&address), shown(&error), expected)
                })?;
                (Arc::from(objects), prefix)
            }
            _ => return Err(Error::value(FLAG, address, ADDRESSES)),
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(Error::io(Path::new(&address), "start a thread for requests to it"))?;
        Ok(Store { address, progress, objects, prefix, runtime })
    }

    /// Waits for requests.
    fn wait<F: Future>(&self, requests: F) -> Result<F::Output> {
        let mut requests = pin!(requests);
        loop {
            match self.runtime.block_on(async { tokio::time::timeout(LOOK, &mut requests).await }) {
                Ok(answer) => return Ok(answer),
                Err(_) => self.progress.advance(0)?,
            }
        }
    }

    /// The address of an object or of a folder, for messages.
    pub fn address(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.address))
    }

    fn object(&self, name: &str) -> Object {
        let path = name.split('/').fold(self.prefix.clone(), |path, part| path.join(part));
        Object { name: path, address: self.address(name), objects: self.objects.clone() }
    }

    /// Reads a small object. `None` if it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.wait(self.object(name).read())?
    }

    /// Reads many small objects, several at a time. The results are in the order of the names.
    pub fn read_all(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        self.for_all(names, |object| async move { object.read().await })
    }

    /// Removes many objects, several at a time. One that does not exist is accepted.
    pub fn remove_all(&self, names: &[String]) -> Result<()> {
        self.for_all(names, |object| async move { object.remove().await }).map(drop)
    }

    /// Makes a request for each of some objects, several at a time. The results are in the order of the names.
    fn for_all<T, F>(&self, names: &[String], request: impl Fn(Object) -> F) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut all = Vec::with_capacity(names.len());
        for names in names.chunks(REQUESTS) {
            let mut running = JoinSet::new();
            for (number, name) in names.iter().enumerate() {
                let request = request(self.object(name));
                running.spawn_on(async move { (number, request.await) }, self.runtime.handle());
            }
            let mut results = self.wait(running.join_all())?;
            results.sort_by_key(|(number, _)| *number);
            for (_, result) in results {
                all.push(result?);
            }
        }
        Ok(all)
    }

    /// Fetches an object of `bytes` bytes to a new file. The number of bytes of each piece is passed to `tell`.
    pub fn fetch(&self, name: &str, bytes: u64, to: &Path, mut tell: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let object = self.object(name);
        files::create_dir(to.parent().unwrap_or(to))?;
        let mut file = File::create(to).map_err(Error::io(to, "create it"))?;
        let mut from = 0;
        while from < bytes {
            let piece = from..bytes.min(from + PIECE);
            let read = self.wait(object.objects.get_range(&object.name, piece))?;
            let read = read.map_err(|error| object.failed("read it", &error))?;
            if read.is_empty() {
                return Err(Error::format(&object.address, format!("{from} bytes"), format!("{bytes} bytes")));
            }
            file.write_all(&read).map_err(Error::io(to, "write it"))?;
            from += read.len() as u64;
            tell(read.len() as u64)?;
        }
        Ok(())
    }

    /// The objects in a folder and the folders below it: their names in the folder, and their sizes in bytes.
    pub fn list(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let top = self.object(folder);
        let (mut found, mut pending) = (Vec::new(), vec![top.name.clone()]);
        while let Some(next) = pending.pop() {
            let listed = self.wait(self.objects.list_with_delimiter(Some(&next)))?;
            let listed = listed.map_err(|error| top.failed("list it", &error))?;
            pending.extend(listed.common_prefixes);
            for object in listed.objects {
                let parts = object.location.prefix_match(&top.name);
                let parts: Vec<String> = parts.into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
                found.push((parts.join("/"), object.size));
            }
        }
        Ok(found)
    }

    /// Puts an object.
    ///
    /// # Errors
    /// [`Error::Format`] if an object with other bytes stands in its place.
    pub fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.wait(self.object(name).put(bytes.into()))?
    }

    /// Uploads that run while the caller works.
    pub fn uploads(&self) -> Uploads<'_, 'a> {
        Uploads { store: self, running: JoinSet::new() }
    }
}

/// Uploads under way. Those of a value that is dropped are given up.
pub struct Uploads<'s, 'a> {
    store: &'s Store<'a>,
    running: JoinSet<Result<()>>,
}

impl Uploads<'_, '_> {
    /// Puts some objects one after another, while the caller works. Waits before, if too many uploads are under way.
    ///
    /// # Errors
    /// The error of an earlier upload.
    pub fn begin(&mut self, objects: Vec<(String, Vec<u8>)>) -> Result<()> {
        while self.running.len() >= UPLOADS {
            self.wait()?;
        }
        let objects: Vec<(Object, Vec<u8>)> =
            objects.into_iter().map(|(name, bytes)| (self.store.object(&name), bytes)).collect();
        let put = async move {
            for (object, bytes) in objects {
                object.put(bytes.into()).await?;
            }
            Ok(())
        };
        self.running.spawn_on(put, self.store.runtime.handle());
        Ok(())
    }

    /// Waits for all uploads.
    ///
    /// # Errors
    /// The error of the first upload that failed.
    pub fn finish(mut self) -> Result<()> {
        while !self.running.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits for one upload.
    fn wait(&mut self) -> Result<()> {
        match self.store.wait(self.running.join_next())? {
            None => Ok(()),
            Some(Ok(put)) => put,
            Some(Err(error)) => {
                let source = std::io::Error::other(error);
                Err(Error::io(Path::new(&self.store.address), "finish an upload to it")(source))
            }
        }
    }
}

/// A place in a store.
struct Object {
    name: Name,
    address: PathBuf,
    objects: Arc<dyn ObjectStore>,
}

impl Object {
    async fn read(&self) -> Result<Option<Vec<u8>>> {
        let read = async { self.objects.get(&self.name).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read it", &error)),
        }
    }

    async fn remove(&self) -> Result<()> {
        match self.objects.delete(&self.name).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("remove it", &error)),
        }
    }

    async fn put(&self, bytes: PutPayload) -> Result<()> {
        let mut repeats = 0;
        loop {
            match self.objects.put_opts(&self.name, bytes.clone(), PutMode::Create.into()).await {
                Ok(_) => return Ok(()),
                Err(object_store::Error::AlreadyExists { .. }) => match self.read().await? {
                    // another writer was faster, or an earlier try of this one whose answer did not arrive
                    Some(found) if found.iter().eq(bytes.iter().flatten()) => return Ok(()),
                    // two writers met, of which the store accepted neither, or the object was removed meanwhile
                    None if repeats < REPEATS => {}
                    _ => return Err(self.foreign()),
                },
                Err(object_store::Error::Generic { .. }) if repeats < REPEATS => {}
                Err(error) => return Err(self.failed("write it", &error)),
            }
            tokio::time::sleep(PAUSE * 2_u32.pow(repeats)).await;
            repeats += 1;
        }
    }

    fn foreign(&self) -> Error {
        Error::format(&self.address, "another object", "none, or one of the same bytes; give another address")
    }

    fn failed(&self, action: &'static str, error: &object_store::Error) -> Error {
        Error::io(&self.address, action)(std::io::Error::other(shown(error)))
    }
}

/// The environment variables that configure a store.
///
/// # Errors
/// [`Error::ConfigValue`] if one of them holds an address that is none, or that holds credentials.
fn variables() -> Result<Vec<(String, String)>> {
    let all = std::env::vars_os();
    let all = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let all = all.filter(|(name, _)| VARIABLES.iter().any(|beginning| name.starts_with(beginning)));
    let all: Vec<(String, String)> = all.collect();
    for (name, value) in all.iter().filter(|(name, value)| name.contains("ENDPOINT") && !value.is_empty()) {
        let found = match Url::parse(value) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => "an address with a user or a password",
            Ok(url) if ["http", "https"].contains(&url.scheme()) => continue,
            _ => "no address",
        };
        return Err(Error::value(name, found, "an address such as https://HOST:PORT"));
    }
    Ok(all)
}

/// An error of a store in words, with the cause that is deepest. Of the server's answer, only the code and the message are shown,
/// since the rest may hold the name of a key.
fn shown(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(|error| error.source()) {
        cause = Some(deeper);
    }
    if let Some(cause) = cause.map(ToString::to_string).filter(|cause| !text.contains(cause)) {
        text = format!("{text}: {cause}");
    }
    if text.contains(METADATA) {
        text.push_str("; the environment holds no credentials, such as AWS_ACCESS_KEY_ID");
    }
    let Some((words, answer)) = text.split_once(['<', '{']) else { return text };
    let field = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(field, _)| field.trim().to_owned())
    };
    let fields: Vec<String> = ["Code", "Message"].into_iter().filter_map(field).collect();
    format!("{} {}", words.trim_end(), fields.join(": ")).trim_end().to_owned()
}
