//! `-d --drain`: a real server is deleted when its connections have ended.

use std::{
    thread,
    time::{Duration, Instant},
};

use lvs::client::{
    ErrorKind,
    blocking::Client,
    packet::{DestinationKey, ServiceKey, Weight},
};

use crate::{failure::Failure, output::say};

/// How often connections are counted.
const INTERVAL: Duration = Duration::from_secs(1);

/// Takes the real server's weight, so that it gets no new connections, waits until it has none, or
/// for the time of grace, and deletes it.
pub(crate) fn drain(
    client: &Client,
    service: &ServiceKey,
    server: &DestinationKey,
    grace: Duration,
) -> Result<(), Failure> {
    let begun = Instant::now();
    client.modify_destination(service, server, |destination| destination.weight = Weight::ZERO)?;
    loop {
        let servers = client.destinations(service)?;
        let Some(entry) = servers.iter().find(|entry| entry.destination.key == *server) else {
            say(&format!("somebody else deleted real server {server} of {service} meanwhile"));
            return Ok(());
        };
        let connections =
            u64::from(entry.active_connections) + u64::from(entry.inactive_connections);
        let left = grace.saturating_sub(begun.elapsed());
        if connections > 0 && !left.is_zero() {
            thread::sleep(left.min(INTERVAL));
            continue;
        }
        match client.delete_destination(service, server) {
            Err(error) if error.kind() == ErrorKind::DestinationNotFound => {}
            result => result?,
        }
        if connections > 0 {
            let seconds = grace.as_secs_f64();
            say(&format!(
                "real server {server} of {service} was deleted after {seconds} s with \
                 {connections} connections left"
            ));
        }
        return Ok(());
    }
}
