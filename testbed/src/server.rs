use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use netns_link::NetNs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Handle,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::error::Error;

/// The page that a pod serves. It starts with `<!DOCTYPE html>` and contains the name.
pub fn page(name: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n<head><title>{name}</title></head>\n\
         <body><h1>Welcome to {name}</h1></body>\n</html>\n"
    )
}

/// A server in this process that listens in a namespace. It ends, with its connections, soon after
/// it is dropped.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
}

impl Server {
    /// Answers every HTTP request with the [`page`] of this name.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn http(namespace: &NetNs, address: SocketAddr, name: &str) -> Result<Self, Error> {
        let page = page(name);
        Self::accept(namespace, address, move |stream| {
            let page = page.clone();
            async move {
                let respond = |_: Request<Incoming>| async {
                    let mut response = Response::new(page.clone());
                    let html = header::HeaderValue::from_static("text/html");
                    response.headers_mut().insert(header::CONTENT_TYPE, html);
                    Ok::<_, Infallible>(response)
                };
                // The server does not care if a client disconnects.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(respond))
                    .await;
            }
        })
    }

    /// Answers each message on a TCP connection with `NAME: ` before it.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn tcp(namespace: &NetNs, address: SocketAddr, name: &str) -> Result<Self, Error> {
        let name = name.to_owned();
        Self::accept(namespace, address, move |mut stream| {
            let name = name.clone();
            async move {
                let mut message = vec![0; 65536];
                while let Ok(length @ 1..) = stream.read(&mut message).await {
                    let answer = answer(&name, &message[..length]);
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            }
        })
    }

    /// Answers each datagram with `NAME: ` before it.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn udp(namespace: &NetNs, address: SocketAddr, name: &str) -> Result<Self, Error> {
        let name = name.to_owned();
        let socket = in_namespace(namespace, || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        })
        .map_err(|error| Error::new(format_args!("listen on udp {address} of {name}"), error))?;
        let task = tokio::spawn(async move {
            let mut datagram = vec![0; 65536];
            loop {
                // The error is about an earlier datagram, whose receiver is gone.
                if let Ok((length, client)) = socket.recv_from(&mut datagram).await {
                    let _ = socket.send_to(&answer(&name, &datagram[..length]), client).await;
                }
            }
        });
        Ok(Self { task })
    }

    /// Ends it and waits for its end: after that, new connections are refused.
    pub async fn stop(mut self) {
        self.task.abort();
        // It reports that it was aborted, as intended.
        let _ = (&mut self.task).await;
    }

    fn accept<F: Future<Output = ()> + Send + 'static>(
        namespace: &NetNs,
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Result<Self, Error> {
        let listener = in_namespace(namespace, || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .map_err(|error| Error::new(format_args!("listen on tcp {address}"), error))?;
        let task = tokio::spawn(async move {
            // Dropped with the task, and its connections with it.
            let mut connections = JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(connections.spawn(serve(stream))),
                    // Too many open files, most likely: wait until some are closed.
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes a tokio socket in a namespace, where it stays.
pub(crate) fn in_namespace<T: Send>(
    namespace: &NetNs,
    open: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let runtime = Handle::current();
    namespace.run(|| {
        let _runtime = runtime.enter();
        open()
    })?
}

fn answer(name: &str, message: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b": ", message].concat()
}
