use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Stdio,
    str::FromStr,
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use netns_link::NetNs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    process::Command,
    task::JoinSet,
    time::timeout,
};

use crate::{error::Error, process::program, server::in_namespace};

/// How a page is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// In this process, by [`http_get`].
    InProcess,
    /// `curl --silent --show-error --fail URL`.
    Curl,
    /// `busybox wget -q -O - URL`.
    Busybox,
}

impl Client {
    /// Fetches `http://ADDRESS/` from a namespace, on a new connection.
    ///
    /// # Errors
    /// If the page is not complete within the limit ([`Error::is_timeout`]), if the connection
    /// fails, if the status is not 200, or if the program is not installed.
    pub async fn get(
        self,
        namespace: &NetNs,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<String, Error> {
        let url = format!("http://{address}/");
        match self {
            Self::InProcess => http_get(namespace, address, limit).await,
            Self::Curl => {
                let mut command = Command::new(program("curl", "curl")?);
                // Without the machine's proxy: the address belongs to the topology.
                command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
                // As the other two clients do: see `http_get`.
                command.args(["--header", "Connection: close", &url]);
                output(namespace, command, limit).await
            }
            Self::Busybox => {
                let mut command = Command::new(program("busybox", "busybox-static")?);
                // Without -T: with it, busybox 1.35 crashes.
                command.args(["wget", "-q", "-O", "-", &url]);
                output(namespace, command, limit).await
            }
        }
    }

    /// The equivalent command, as a reader would type it.
    pub fn command(self, address: SocketAddr) -> String {
        match self {
            Self::InProcess | Self::Curl => format!("curl http://{address}/"),
            Self::Busybox => format!("busybox wget -q -O - http://{address}/"),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InProcess => "in-process",
            Self::Curl => "curl",
            Self::Busybox => "busybox",
        })
    }
}

/// From `in-process`, `curl` or `busybox`.
impl FromStr for Client {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::InProcess, Self::Curl, Self::Busybox]
            .into_iter()
            .find(|client| client.to_string() == text)
            .ok_or_else(|| Error::new(text, "not a client: expected in-process, curl or busybox"))
    }
}

/// Fetches `http://ADDRESS/` from a namespace, on a new connection.
///
/// # Errors
/// If the page is not complete within the limit ([`Error::is_timeout`]), if the connection
/// fails, or if the status is not 200.
pub async fn http_get(
    namespace: &NetNs,
    address: SocketAddr,
    limit: Duration,
) -> Result<String, Error> {
    let step = format!("GET http://{address}/ from {namespace}");
    within(limit, &step, async {
        let stream = open(namespace, address).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io_error)?;
        // The connection ends with this call, however it ends.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::get("/")
            .header(header::HOST, address.to_string())
            // The server closes first: when this call returns, no packet of the connection is on its
            // way any more, and the caller's next changes do not affect it.
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io_error)?;
        let status = response.status();
        if status != hyper::StatusCode::OK {
            return Err(io::Error::other(format!("status {status}")));
        }
        let body = response.into_body().collect().await.map_err(io_error)?;
        while driver.join_next().await.is_some() {}
        String::from_utf8(body.to_bytes().into()).map_err(io::Error::other)
    })
    .await
}

/// Sends a message on a new TCP connection and returns the answer.
///
/// # Errors
/// If no answer arrives within the limit ([`Error::is_timeout`]), or the connection fails.
pub async fn tcp_exchange(
    namespace: &NetNs,
    address: SocketAddr,
    message: &str,
    limit: Duration,
) -> Result<String, Error> {
    within(limit, &format!("tcp {address} from {namespace}"), async {
        let mut stream = open(namespace, address).await?;
        stream.write_all(message.as_bytes()).await?;
        let mut answer = vec![0; 65536];
        let length = stream.read(&mut answer).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.truncate(length);
        String::from_utf8(answer).map_err(io::Error::other)
    })
    .await
}

/// Sends a datagram from a new port and returns the answer.
///
/// # Errors
/// If no answer arrives within the limit ([`Error::is_timeout`]), or it is refused.
pub async fn udp_exchange(
    namespace: &NetNs,
    address: SocketAddr,
    message: &str,
    limit: Duration,
) -> Result<String, Error> {
    within(limit, &format!("udp {address} from {namespace}"), async {
        let socket = in_namespace(namespace, || {
            let socket = match address {
                SocketAddr::V4(_) => std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
            }?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        })?;
        // Connected: an answer from another address, as of a server that IPVS lost, does not count.
        socket.connect(address).await?;
        socket.send(message.as_bytes()).await?;
        let mut answer = vec![0; 65536];
        let length = socket.recv(&mut answer).await?;
        answer.truncate(length);
        String::from_utf8(answer).map_err(io::Error::other)
    })
    .await
}

/// Opens a TCP connection from a namespace.
pub(crate) async fn connect(
    namespace: &NetNs,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream, Error> {
    within(limit, &format!("tcp {address} from {namespace}"), open(namespace, address)).await
}

async fn open(namespace: &NetNs, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = in_namespace(namespace, || match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    })?;
    socket.connect(address).await
}

/// Runs a program in a namespace and returns what it prints.
async fn output(namespace: &NetNs, mut command: Command, limit: Duration) -> Result<String, Error> {
    let step = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    within(limit, &step, async {
        let child = in_namespace(namespace, || command.spawn())?;
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{}: {}", output.status, said.trim_end())));
        }
        String::from_utf8(output.stdout).map_err(io::Error::other)
    })
    .await
}

async fn within<T>(
    limit: Duration,
    step: &str,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| Error::new(step, error))
}

/// hyper's error, or the I/O error in it, so that its kind is not lost.
fn io_error(error: hyper::Error) -> io::Error {
    let kind = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map_or(io::ErrorKind::Other, io::Error::kind);
    io::Error::new(kind, error)
}
