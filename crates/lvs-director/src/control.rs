//! The Unix socket: one line of JSON is asked, one line is answered.

use std::{
    fs,
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::status::Status;

/// So many are served at once; others wait.
const AT_ONCE: usize = 16;
/// No request is longer.
const LONGEST: u64 = 4096;
/// How long one exchange may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    Drain { member: String, service: Option<String> },
    Maintain { member: String, service: Option<String> },
    Enable { member: String, service: Option<String> },
    Weight { member: String, service: Option<String>, percent: u8 },
    Role { master: bool },
    Confirm,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) done: bool,
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) status: Option<Box<Status>>,
}

/// A request on its way to the director, with the place for its answer.
pub(crate) type Ask = (Request, oneshot::Sender<Answer>);

/// Asks the director in this process.
pub(crate) async fn ask(asks: &mpsc::Sender<Ask>, request: Request) -> Option<Answer> {
    let (reply, answer) = oneshot::channel();
    let wait = async {
        asks.send((request, reply)).await.ok()?;
        answer.await.ok()
    };
    timeout(LIMIT, wait).await.ok().flatten()
}

/// A socket that is served. Its file goes with it.
pub(crate) struct Control {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Listens. A socket that an earlier process left is replaced; one that is in use, and what is no
    /// socket, is not.
    pub(crate) fn listen(path: &Path, asks: mpsc::Sender<Ask>) -> io::Result<Self> {
        let said = |doing: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(|error| said("make the directory of", error))?;
        }
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(said("listen on", io::Error::other("it is there and no socket")));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(said(
                    "listen on",
                    io::Error::other("another lvs-director listens there"),
                ));
            }
            Ok(_) => fs::remove_file(path).map_err(|error| said("remove", error))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(|error| said("listen on", error))?;
        // Who may write to it may drain servers.
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .map_err(|error| said("protect", error))?;
        let task = tokio::spawn(serve(listener, asks));
        Ok(Self { path: path.to_owned(), task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others will end.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asks = asks.clone();
        tokio::spawn(async move {
            let _ = timeout(LIMIT, exchange(stream, &asks)).await;
            drop(permit);
        });
    }
}

async fn exchange(stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(LONGEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => ask(asks, request).await,
        Err(error) => Some(Answer { done: false, text: error.to_string(), status: None }),
    };
    let answer = answer.unwrap_or_else(|| {
        let text = "the director is busy, or ends".to_owned();
        Answer { done: false, text, status: None }
    });
    let mut text = serde_json::to_string(&answer).map_err(io::Error::other)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

/// Asks the director that listens on a socket.
pub(crate) fn call(path: &Path, request: &Request) -> io::Result<Answer> {
    let said = |error: io::Error| {
        let text = format!("{}: {error}; does lvs-director run?", path.display());
        io::Error::new(error.kind(), text)
    };
    let mut stream = std::os::unix::net::UnixStream::connect(path).map_err(said)?;
    stream.set_read_timeout(Some(2 * LIMIT))?;
    let mut text = serde_json::to_string(request).map_err(io::Error::other)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(said)?;
    let mut answer = String::new();
    // A status of a hundred thousand servers.
    io::BufReader::new(stream.take(1 << 30)).read_line(&mut answer).map_err(said)?;
    serde_json::from_str(&answer).map_err(|error| said(io::Error::other(error)))
}
