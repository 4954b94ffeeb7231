//! Protocols that one exchange of bytes tells apart from silence: Redis, memcached, IMAP, databases.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "tls")]
use super::Tls;
use super::{
    Failure, Good, Limit, Text, Way,
    stream::{Secure, Talk},
};

/// How much of an answer is looked at.
const MOST: usize = 16 << 10;

/// Bytes that are sent, and how the answer has to begin. HAProxy's `tcp-check send` and `expect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Line {
    /// What is sent; nothing by default, for servers that greet.
    pub send: Text,
    /// What the answer has to begin with, one of these; with none any byte is an answer.
    pub expect: Vec<Text>,
    /// From which of its bytes on, 0 to 16,383; the first, 0, by default.
    pub at: u16,
    /// TLS; none by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
}

impl Line {
    /// Sends this and expects that the answer begins with that.
    pub fn new(send: &[u8], expect: &[u8]) -> Self {
        Self { send: send.into(), expect: vec![expect.into()], ..Self::default() }
    }

    /// Redis: `PING`. With a password its refusal is an answer, too.
    pub fn redis() -> Self {
        let expect = [&b"+PONG"[..], b"-NOAUTH"].map(Text::from).to_vec();
        Self { expect, ..Self::new(b"PING\r\n", b"") }
    }

    /// memcached: `version`.
    pub fn memcached() -> Self {
        Self::new(b"version\r\n", b"VERSION ")
    }

    /// IMAP's greeting.
    pub fn imap() -> Self {
        Self::new(b"", b"* OK")
    }

    /// POP's greeting.
    pub fn pop() -> Self {
        Self::new(b"", b"+OK")
    }

    /// MySQL's and MariaDB's greeting: protocol 10. A server that refuses this host says something
    /// else. The server counts connections that end without a password as aborted.
    pub fn mysql() -> Self {
        Self { at: 4, ..Self::new(b"", b"\x0a") }
    }

    /// PostgreSQL: does it speak TLS? Either answer comes from a server that takes connections.
    pub fn postgresql() -> Self {
        let expect = [&b"S"[..], b"N"].map(Text::from).to_vec();
        Self { expect, ..Self::new(b"\0\0\0\x08\x04\xd2\x16\x2f", b"") }
    }

    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        #[cfg(feature = "tls")]
        let secure = self.tls.as_ref().map_or(Secure::No, |tls| Secure::Tls(tls, None, &[]));
        #[cfg(not(feature = "tls"))]
        let secure = Secure::No;
        let mut talk = Talk::open(way, address, secure, MOST, limit).await?;
        if !self.send.as_bytes().is_empty() {
            talk.say(self.send.as_bytes()).await?;
        }
        talk.hear(|read, more| self.judge(read, more)).await?
    }

    /// What an answer says of the server, once that is clear; `more` is false at its end.
    pub(crate) fn judge(&self, answer: &[u8], more: bool) -> Option<Result<Good, Failure>> {
        let at = usize::from(self.at);
        let part = answer.get(at..).unwrap_or_default();
        if part.is_empty() {
            // Silence has words of its own.
            return None;
        }
        let good = || Some(Ok(Good::new(format!("answer {}", quoted(part)))));
        if self.expect.is_empty() {
            return good();
        }
        let mut may_come = false;
        for expected in self.expect.iter().map(Text::as_bytes) {
            if part.starts_with(expected) {
                return good();
            }
            may_come |= expected.starts_with(part);
        }
        (!(may_come && more)).then(|| {
            let wanted: Vec<_> = self.expect.iter().map(|text| format!("{text:?}")).collect();
            let (found, wanted) = (quoted(part), wanted.join(" or "));
            Err(Failure::bad(format!("answer {found}, wanted {wanted}")))
        })
    }
}

/// The first line of an answer, for people.
pub(crate) fn quoted(answer: &[u8]) -> String {
    const LONGEST: usize = 60;
    let line = answer.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let cut = if line.len() > LONGEST { "…" } else { "" };
    format!("\"{}{cut}\"", line[..line.len().min(LONGEST)].escape_ascii())
}
