//! A socket that a task of a tokio runtime drives, by netlink-proto: any number of callers at once.

use std::{future::poll_fn, io, sync::Arc, task::Poll};

use futures_util::{FutureExt, StreamExt, future};
use netlink_packet_core::{NLM_F_DUMP, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_proto::{
    ConnectionHandle, NetlinkCodec,
    sys::{AsyncSocket, SocketAddr, TokioSocket as ProtoSocket, protocols::NETLINK_ROUTE},
};
use netlink_sys::Socket;
use netlink_talk::{Answers, Owner, Raw};
use tokio::{runtime::Handle, sync::Mutex, task::AbortHandle};

use super::strict;
use crate::{
    error::{Error, Operation},
    netns::NetNs,
};

#[derive(Debug)]
pub(crate) struct TokioSocket {
    requests: ConnectionHandle<Raw>,
    runtime: Handle,
    driver: AbortHandle,
    owner: Owner,
    /// A socket has one listing at a time.
    listing: Arc<Mutex<()>>,
}

impl TokioSocket {
    pub(crate) fn connect(namespace: &NetNs) -> Result<Self, Error> {
        Self::connect_with(namespace, prepared)
    }

    /// With room for a few answers only.
    #[cfg(test)]
    pub(crate) fn connect_shrunk(namespace: &NetNs) -> Result<Self, Error> {
        Self::connect_with(namespace, |socket| {
            prepared(socket)?;
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
                let socket = ProtoSocket::new(NETLINK_ROUTE)?;
                prepare(socket.socket_ref())?;
                Ok(socket)
            })?
            .map_err(failed)?;
        Ok(Self::drive(socket, runtime))
    }

    fn drive(socket: ProtoSocket, runtime: Handle) -> Self {
        let (mut connection, requests, mut unsolicited) =
            netlink_proto::from_socket_with_codec::<Raw, _, NetlinkCodec>(socket);
        // So that an answer that came to its end is told from a connection that did.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let owner = Owner::current();
        let driver = runtime.spawn(async move {
            // The only unsolicited message of a socket without groups says that answers were
            // lost. Which ones is not known: every waiting call fails when the connection closes.
            let driven = future::select(&mut connection, unsolicited.next());
            let mut driven = std::pin::pin!(driven);
            // In a child of `fork` its copy would take the parent's answers. It does not end either: to
            // close the socket there would take it off the runtime's epoll, which is the parent's too.
            poll_fn(|context| match owner.check() {
                Ok(()) => driven.poll_unpin(context).map(drop),
                Err(_) => Poll::Pending,
            })
            .await;
        });
        let driver = driver.abort_handle();
        Self { requests, driver, owner, runtime, listing: Arc::default() }
    }

    pub(crate) async fn exchange(&self, requests: Vec<(Raw, u16)>) -> Answers {
        if let Err(other) = self.owner.check() {
            return Answers { messages: Vec::new(), broken: Some(io::Error::other(other)) };
        }
        // NLM_F_DUMP is two bits, each of which means something else on other requests.
        let lists = requests.iter().any(|(_, flags)| flags & NLM_F_DUMP == NLM_F_DUMP);
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

impl Drop for TokioSocket {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Sets what every socket of this crate has.
fn prepared(socket: &Socket) -> io::Result<()> {
    netlink_talk::prepare(socket)?;
    strict(socket);
    Ok(())
}

async fn collect(sender: &ConnectionHandle<Raw>, requests: Vec<(Raw, u16)>) -> Answers {
    let message = |(request, flags)| {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request))
    };
    let requests: Vec<_> = requests.into_iter().map(message).collect();
    match sender.request_batch(requests, SocketAddr::new(0, 0)) {
        Ok(answers) => Answers { messages: answers.collect().await, broken: None },
        Err(_) => Answers::default(),
    }
}
