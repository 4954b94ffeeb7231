//! What the kernel's own counters say of a real server.

use std::time::Duration;

use lvs::client::{Connection, ConnectionState, packet::Statistics};

use crate::Outcome;

/// The kernel forgets a connection that was not answered after so long.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Watches clients' own connections to a real server: when several in a row get no answer, it is bad. Values
/// without I/O; the numbers come from the snapshots that a program takes anyway.
///
/// It finds what no check finds, a server that answers checks and not clients, and it finds it only while there are
/// clients. So it does not replace a check: a member that is out gets no connections, and nothing
/// here would bring it back. Report what it says beside the check's results, and give the member a
/// [rise](crate::Member::rise) of some results.
///
/// ```
/// use lvs::client::packet::Statistics;
/// use lvs_health::{Outcome, Passive};
///
/// let mut passive = Passive::new(3);
/// let mut counters = Statistics::default();
/// assert_eq!(passive.counters(&counters), None);
/// (counters.connections, counters.incoming_packets) = (4, 12);
/// assert!(matches!(passive.counters(&counters), Some(Outcome::Bad(_))));
/// ```
#[derive(Clone, Debug)]
pub struct Passive {
    least: u64,
    unanswered: u64,
    last: Option<Statistics>,
}

impl Passive {
    /// Bad are so many connections in a row without an answer, at least 1.
    pub fn new(least: u64) -> Self {
        Self { least: least.max(1), unanswered: 0, last: None }
    }

    /// What a real server's next counters say. Only of masquerading, where replies pass the director: with direct
    /// routing and tunnels there is [`connections`](Self::connections).
    ///
    /// `Good` if packets came back, `Bad` if only connections were added, `None` if nothing is
    /// known.
    pub fn counters(&mut self, now: &Statistics) -> Option<Outcome> {
        let last = self.last.replace(*now)?;
        let (Some(connections), Some(answers)) = (
            now.connections.checked_sub(last.connections),
            now.outgoing_packets.checked_sub(last.outgoing_packets),
        ) else {
            // It is another real server at the same address, or somebody has set them to zero.
            self.unanswered = 0;
            return None;
        };
        if answers > 0 {
            self.unanswered = 0;
            return Some(Outcome::Good);
        }
        self.unanswered = self.unanswered.saturating_add(connections);
        self.judge(self.unanswered, "no packet came back")
    }

    /// What the connection table says: the real server's TCP connections of which only the first packet was
    /// seen, for 3 seconds or more. Of any forwarding method, since the client's second packet passes
    /// the director, too. `Bad` or `None`.
    pub fn connections<'a>(
        &self,
        connections: impl IntoIterator<Item = &'a Connection>,
    ) -> Option<Outcome> {
        let patience = FORGOTTEN - Duration::from_secs(3);
        let opening = connections
            .into_iter()
            .filter(|it| it.state == ConnectionState::SYN_RECV && it.expires <= patience)
            .count();
        self.judge(u64::try_from(opening).unwrap_or(u64::MAX), "none was answered")
    }

    fn judge(&self, unanswered: u64, what: &str) -> Option<Outcome> {
        (unanswered >= self.least)
            .then(|| Outcome::Bad(format!("{unanswered} connections of clients, and {what}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(connections: u64, outgoing_packets: u64) -> Statistics {
        let mut counters = Statistics::default();
        (counters.connections, counters.outgoing_packets) = (connections, outgoing_packets);
        counters
    }

    #[test]
    fn connections_without_an_answer_add_up() {
        let mut passive = Passive::new(3);
        let bad = |count: u64| {
            Some(Outcome::Bad(format!("{count} connections of clients, and no packet came back")))
        };
        for (now, expected) in [
            (counters(100, 50), None),
            (counters(102, 50), None),
            (counters(102, 50), None),
            (counters(103, 50), bad(3)),
            (counters(105, 50), bad(5)),
            (counters(106, 51), Some(Outcome::Good)),
            (counters(108, 51), None),
            // Set to zero.
            (counters(2, 0), None),
            (counters(4, 0), None),
            (counters(5, 0), bad(3)),
        ] {
            assert_eq!(passive.counters(&now), expected, "{now:?}");
        }
    }

    #[test]
    fn what_opens_for_long_is_counted() {
        let connections: Vec<Connection> = [("SYN_RECV", 59), ("SYN_RECV", 57), ("SYN_RECV", 2)]
            .into_iter()
            .chain([("ESTABLISHED", 2), ("SYN_RECV", 30)])
            .map(|(state, expires)| {
                let line =
                    format!("TCP C0A80001 1F90 0A0000B9 0050 AC110003 0050 {state} {expires}");
                Connection::parse(line.as_bytes()).expect("a line of /proc/net/ip_vs_conn")
            })
            .collect();
        assert_eq!(Passive::new(4).connections(&connections), None);
        let reason = "3 connections of clients, and none was answered".to_owned();
        assert_eq!(Passive::new(3).connections(&connections), Some(Outcome::Bad(reason)));
    }
}
