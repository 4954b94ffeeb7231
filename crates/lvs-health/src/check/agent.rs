//! HAProxy's agent: a server says itself how much it wants.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    Failure, Good, Limit, Text, Way,
    line::quoted,
    stream::{Secure, Talk},
};
use crate::Outcome;

/// How long a line may be.
const MOST: usize = 1024;

/// An agent on the server says a line like `up 75%`, by the protocol of HAProxy's `agent-check`. Its port is
/// the check's. An agent that does not answer says nothing of the server.
///
/// | word | what follows |
/// |---|---|
/// | `75%` | so much of the weight, 100 at most |
/// | `drain`, `maint`, `ready` | drain, maintenance, the end of both |
/// | `up` | the check is good |
/// | `down`, `failed`, `stopped`, then `#` and a reason | the check is bad |
///
/// `maxconn:` has no counterpart in IPVS and is passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Agent {
    /// What it is sent; nothing by default. HAProxy's `agent-send`.
    pub send: Text,
}

impl Agent {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let silent = |failure| match failure {
            Failure::Bad(reason) => Failure::Unable(format!("agent: {reason}")),
            other => other,
        };
        let mut talk = Talk::open(way, address, Secure::No, MOST, limit).await.map_err(silent)?;
        if !self.send.as_bytes().is_empty() {
            talk.say(self.send.as_bytes()).await.map_err(silent)?;
        }
        let line = talk.hear(|read, more| {
            let end = read.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            // The end of the connection is that of the line, too.
            end.or((!more && !read.is_empty()).then_some(read.len()))
                .map(|end| read[..end].to_vec())
        });
        judge(&line.await.map_err(silent)?)
    }
}

/// What an agent's line says.
pub(crate) fn judge(line: &[u8]) -> Result<Good, Failure> {
    let text = String::from_utf8_lossy(line);
    let (words, reason) = text.split_once('#').unwrap_or((&text, ""));
    let (mut mode, mut weight, mut is_up) = (None, None, None);
    for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        let lower = word.to_ascii_lowercase();
        match lower.as_str() {
            "drain" => mode = Some(Outcome::Drain),
            "maint" => mode = Some(Outcome::Maintenance),
            "ready" => mode = Some(Outcome::Enable),
            "up" => is_up = Some(true),
            "down" | "failed" | "fail" | "stopped" => is_up = Some(false),
            other => {
                let digits = other.strip_suffix('%').filter(|digits| {
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
                });
                // More digits than fit are more than 100, too.
                weight = digits
                    .map(|digits| Outcome::Weight(digits.parse::<u8>().unwrap_or(100).min(100)))
                    .or(weight);
            }
        }
    }
    if is_up == Some(false) {
        let reason = if reason.trim().is_empty() { words } else { reason };
        return Err(Failure::bad(format!("agent: {}", reason.trim())));
    }
    if is_up.is_none() && mode.is_none() && weight.is_none() {
        return Err(Failure::Unable(format!("agent: {} is no agent's word", quoted(line))));
    }
    Ok(Good {
        wishes: mode.into_iter().chain(weight).collect(),
        ..Good::new(format!("agent: {}", words.trim()))
    })
}
