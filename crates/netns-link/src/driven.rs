//! A socket that a task of a tokio runtime drives, by netlink-proto: any number of callers at once.

use std::{io, sync::Arc};

use futures_util::{StreamExt, future};
use netlink_packet_core::{NLM_F_DUMP, NetlinkMessage};
use netlink_proto::{
    ConnectionHandle, NetlinkCodec,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use netlink_sys::Socket;
use tokio::{runtime::Handle, sync::Mutex, task::AbortHandle};

use crate::{
    error::Error,
    netlink::{Answers, Raw, prepare},
    netns::NetNs,
    operation::Operation,
};

#[derive(Debug)]
pub(crate) struct Driven {
    requests: ConnectionHandle<Raw>,
    runtime: Handle,
    driver: AbortHandle,
    /// A socket has one listing at a time.
    listing: Arc<Mutex<()>>,
}

impl Driven {
    pub(crate) fn connect(namespace: &NetNs) -> Result<Self, Error> {
        Self::connect_with(namespace, prepare)
    }

    /// With room for a few answers only.
    #[cfg(test)]
    pub(crate) fn connect_shrunk(namespace: &NetNs) -> Result<Self, Error> {
        Self::connect_with(namespace, |socket| {
            prepare(socket)?;
            socket.set_rx_buf_sz(4096_u32)
        })
    }

    fn connect_with(
        namespace: &NetNs,
        prepare: impl FnOnce(&Socket) -> io::Result<()> + Send,
    ) -> Result<Self, Error> {
        let operation = Operation::Connect(namespace.to_string());
        let failed = |error| Error::system(&operation, error);
        let runtime = Handle::try_current().map_err(|error| failed(io::Error::other(error)))?;
        let socket = namespace
            .run(|| {
                let _runtime = runtime.enter();
                let socket = TokioSocket::new(NETLINK_ROUTE)?;
                prepare(socket.socket_ref())?;
                Ok(socket)
            })?
            .map_err(failed)?;
        Ok(Self::drive(socket, runtime))
    }

    fn drive(socket: TokioSocket, runtime: Handle) -> Self {
        let (mut connection, requests, mut unsolicited) =
            netlink_proto::from_socket_with_codec::<Raw, _, NetlinkCodec>(socket);
        // So that an answer that came to its end is told from a connection that did.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let driver = runtime.spawn(async move {
            // The only unsolicited message of a socket without groups says that answers were
            // lost. Which ones is not known: all that wait are told by the connection's end.
            future::select(&mut connection, unsolicited.next()).await;
        });
        Self { requests, driver: driver.abort_handle(), runtime, listing: Arc::default() }
    }

    pub(crate) async fn exchange(&self, requests: Vec<NetlinkMessage<Raw>>) -> Answers {
        // NLM_F_DUMP is two bits, each of which means something else on other requests.
        let lists = requests.iter().any(|request| request.header.flags & NLM_F_DUMP == NLM_F_DUMP);
        if !lists {
            return collect(&self.requests, requests).await;
        }
        let (listing, sender) = (Arc::clone(&self.listing), self.requests.clone());
        // On a task of its own, so that a caller who no longer waits does not leave a listing half
        // read: the kernel answers EBUSY to the next.
        let task = self.runtime.spawn(async move {
            let _one_at_a_time = listing.lock().await;
            collect(&sender, requests).await
        });
        task.await.unwrap_or_default()
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn collect(sender: &ConnectionHandle<Raw>, requests: Vec<NetlinkMessage<Raw>>) -> Answers {
    match sender.request_batch(requests, SocketAddr::new(0, 0)) {
        Ok(answers) => Answers { messages: answers.collect().await, broken: None },
        Err(_) => Answers::default(),
    }
}
