//! A mail server's greeting and its answer to HELO.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "tls")]
use super::Tls;
use super::{
    Failure, Good, Limit, Way,
    line::quoted,
    stream::{Secure, Talk},
};

/// How much is read in all.
const MOST: usize = 16 << 10;

/// A mail server greets, takes `HELO` and is told `QUIT`. keepalived's `SMTP_CHECK`, ldirectord's
/// `service=smtp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Smtp {
    /// The name that it is told; `localhost` by default.
    pub helo: String,
    /// TLS from the start; none by default.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            helo: "localhost".to_owned(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Smtp {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        if self.helo.is_empty() || self.helo.contains(|char: char| !char.is_ascii_graphic()) {
            return Err(Failure::Unable(format!("{:?} is no host's name", self.helo)));
        }
        #[cfg(feature = "tls")]
        let secure = self.tls.as_ref().map_or(Secure::No, |tls| Secure::Tls(tls, None, &[]));
        #[cfg(not(feature = "tls"))]
        let secure = Secure::No;
        let mut talk = Talk::open(way, address, secure, MOST, limit).await?;
        let greeting = wait_for(&mut talk, "greeting", b"220").await?;
        talk.say(format!("HELO {}\r\n", self.helo).as_bytes()).await?;
        wait_for(&mut talk, "HELO", b"250").await?;
        // It has proved that it works; whether it says goodbye is not waited for.
        let _ = talk.say(b"QUIT\r\n").await;
        Ok(Good::new(format!("greeting {}", quoted(&greeting))))
    }
}

/// Reads a reply to its last line.
async fn wait_for(talk: &mut Talk, step: &str, code: &[u8; 3]) -> Result<Vec<u8>, Failure> {
    loop {
        let line = talk.line().await?;
        if judge(&line, step, code)? {
            return Ok(line);
        }
    }
}

/// Whether a line of a reply is its last.
pub(crate) fn judge(line: &[u8], step: &str, code: &[u8; 3]) -> Result<bool, Failure> {
    let is_last = match line.strip_prefix(code) {
        Some([] | [b' ', ..]) => Some(true),
        Some([b'-', ..]) => Some(false),
        _ => None,
    };
    is_last.ok_or_else(|| {
        let wanted = String::from_utf8_lossy(code);
        Failure::bad(format!("{step}: answer {}, wanted {wanted}", quoted(line)))
    })
}
