//! The messages of `ipvs-packet` over a connection of netlink-proto, for a program that runs one
//! already. Any other program is better served by `ipvs-client`, which has none of these limits:
//!
//! - netlink-proto drops a reply that it cannot decode, and only logs it. A list then lacks an entry,
//!   and a question ends without its answer, or never ends if it asks for no acknowledgement.
//! - When the receive buffer overflows, netlink-proto reports it on the channel of unsolicited
//!   messages, and the requests under way never end. Hence the time limit below.
//! - The kernel takes one list at a time on a socket, and refuses a second one with EBUSY.
//! - Something must poll the connection. When it is dropped, the requests under way end without an
//!   answer.
//!
//! ```sh
//! cargo run --example netlink_proto
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `guest`.

use std::{error::Error, fmt::Debug, io, time::Duration};

use clap::Parser;
use examples::command;
use futures_util::StreamExt;
use ipvs_packet::{Destination, FAMILY_NAME, Message, Reply, Request, Service};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_generic::{
    GenlFamily, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_proto::{
    ConnectionHandle, new_connection,
    sys::{SocketAddr, protocols::NETLINK_GENERIC},
};
use netns_link::NetNs;
use tokio::{runtime::Handle, time::timeout};

/// How long the kernel may take for one answer.
const LIMIT: Duration = Duration::from_secs(5);

/// A virtual service, set up over a connection of netlink-proto.
#[derive(Parser)]
struct Arguments {}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments {} = examples::start();
    run()
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> Result<(), Box<dyn Error>> {
    // A socket belongs to the namespace in which it is made, here by a thread of its own.
    let runtime = Handle::current();
    let (driver, connection, _unsolicited) = NetNs::new()?.run(move || {
        let _runtime = runtime.enter();
        new_connection(NETLINK_GENERIC)
    })??;
    tokio::spawn(driver);
    let family = family().await?;
    let ipvs = async |request: Request| {
        let flags = request.flags();
        ask(&connection, family, flags, Message::from(request)).await
    };

    let service = Service::new("-t [2001:db8::185]:80".parse()?);
    let key = *service.key();
    command(format_args!("ipvsadm -A {service}"));
    ipvs(Request::NewService(service.clone())).await?;
    for address in ["[2001:db8::3]:80", "[2001:db8::4]:80"] {
        let destination = Destination::new(address.parse()?);
        command(format_args!("ipvsadm -a {key} {destination}"));
        ipvs(Request::NewDestination(key, destination)).await?;
    }

    command("ipvsadm -S -n");
    for message in ipvs(Request::ListServices).await? {
        let Message::Reply(Reply::Service(entry)) = message else { continue };
        println!("-A {}", entry.service);
    }
    for message in ipvs(Request::ListDestinations(key)).await? {
        let Message::Reply(Reply::Destination(entry)) = message else { continue };
        println!("-a {key} {}", entry.destination);
    }

    command(format_args!("ipvsadm -A {service}"));
    match ipvs(Request::NewService(service)).await {
        Err(error) => println!("{error}"),
        Ok(_) => return Err("the kernel took the same service twice".into()),
    }
    Ok(())
}

/// Asks the generic netlink controller, over a connection of its own, for the family's number.
async fn family() -> Result<u16, Box<dyn Error>> {
    let (driver, connection, _unsolicited) = new_connection(NETLINK_GENERIC)?;
    tokio::spawn(driver);
    let nlas = vec![GenlCtrlAttrs::FamilyName(FAMILY_NAME.to_owned())];
    let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas };
    let answers = ask(&connection, 0, NLM_F_REQUEST, question).await?;
    let mut attributes = answers.into_iter().flat_map(|answer| answer.nlas);
    let number = attributes.find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(number) => Some(number),
        _ => None,
    });
    number.ok_or_else(|| "the kernel did not say the number of the family IPVS".into())
}

/// Sends a message and returns all answers to it.
async fn ask<T>(
    connection: &ConnectionHandle<GenlMessage<T>>,
    family: u16,
    flags: u16,
    payload: T,
) -> Result<Vec<T>, Box<dyn Error>>
where
    T: GenlFamily + Debug,
    GenlMessage<T>: NetlinkSerializable,
{
    let mut message = GenlMessage::from_payload(payload);
    message.set_resolved_family_id(family);
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut stream = connection.request(message, SocketAddr::new(0, 0))?;
    let mut answers = Vec::new();
    while let Some(message) = timeout(LIMIT, stream.next()).await? {
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => answers.push(answer.payload),
            // Without a code it is an acknowledgement.
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(io::Error::from(error).into());
            }
            _ => {}
        }
    }
    Ok(answers)
}
