//! IPVS over a connection of netlink-proto, for a program that already has one: one connection and one
//! driver for every family of generic netlink. Any other program should use `ipvs-client`, which
//! has none of the limits that [`lvs::netlink_proto`] lists.
//!
//! ```sh
//! cargo run --example netlink_proto
//! ```
//!
//! It needs neither root nor IPVS in the kernel: see the package `lvs-guest`.

use std::error::Error;

use clap::Parser;
use examples::command;
use lvs::{Desired, Policy, Scope, Table, netlink_proto::NetlinkProto};
use netlink_proto::{new_connection, sys::protocols::NETLINK_GENERIC};
use netns_link::NetNs;
use tokio::runtime::Handle;

/// A virtual service, set up over a connection of netlink-proto.
#[derive(Parser)]
struct Arguments {}

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments {} = examples::start();
    run()
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> Result<(), Box<dyn Error>> {
    // A socket belongs to the namespace in which it is made. Here a separate thread makes it.
    let runtime = Handle::current();
    let (mut driver, connection, _unsolicited) = NetNs::new()?.run(move || {
        let _runtime = runtime.enter();
        new_connection(NETLINK_GENERIC)
    })??;
    driver.set_forward_ack(true);
    driver.set_forward_done(true);
    tokio::spawn(driver);
    let ipvs = NetlinkProto::new(connection);

    let rules = "-A -t [2001:db8::185]:80 -s wrr\n\
                 -a -t [2001:db8::185]:80 -r [2001:db8::3]:80 -m -w 3\n\
                 -a -t [2001:db8::185]:80 -r [2001:db8::4]:80 -m\n";
    let desired: Desired = rules.parse()?;
    let plan = desired.plan(&ipvs, &Policy::new().scope(Scope::All)).await?;
    for line in plan.command_lines().to_string().lines() {
        command(line);
    }
    plan.apply(&ipvs).await?;

    command("ipvsadm -Ln");
    print!("{}", Table::read(&ipvs).await?);

    // What the kernel refuses is said as over a client.
    let refused: Desired = "-A -t [2001:db8::185]:80 -s fastest\n".parse()?;
    command("ipvsadm -E -t [2001:db8::185]:80 -s fastest");
    match refused.apply(&ipvs, &Policy::new()).await {
        Err(error) => println!("{error}"),
        Ok(_) => return Err("the kernel knows the scheduler fastest".into()),
    }
    Ok(())
}
