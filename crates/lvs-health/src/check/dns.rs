//! A DNS question and its answer.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE, rdata::RData,
};
use socket2::Protocol;

use super::{
    Failure, Good, Limit, Way,
    datagram::open,
    stream::{Secure, Talk},
};

/// No message is longer.
const LONGEST: usize = 65_535;

/// A question to a DNS server. keepalived's `DNS_CHECK`, ldirectord's `service=dns`.
///
/// What answers another question than was asked is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Dns {
    /// The name that is asked for; the root, `.`, by default.
    pub name: String,
    /// What is asked of it; `SOA` by default.
    #[serde(rename = "type")]
    pub kind: RecordType,
    /// The answers of which one has to be there: `10.0.0.1`, a name, `10 mail.example` (MX), `0 5 80 web.example`
    /// (SRV), a text (TXT). With none, the default, any answer is good.
    pub expect: Vec<String>,
    /// Whether it is asked over TCP; over UDP by default.
    pub tcp: bool,
}

/// The type of a DNS record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum RecordType {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Another name.
    Cname,
    /// A mail server.
    Mx,
    /// A name server.
    Ns,
    /// The name of an address.
    Ptr,
    /// The start of a zone.
    Soa,
    /// A service's port and server.
    Srv,
    /// A text.
    Txt,
}

impl Default for Dns {
    fn default() -> Self {
        Self { name: ".".to_owned(), kind: RecordType::Soa, expect: Vec::new(), tcp: false }
    }
}

impl RecordType {
    fn wire(self) -> TYPE {
        match self {
            Self::A => TYPE::A,
            Self::Aaaa => TYPE::AAAA,
            Self::Cname => TYPE::CNAME,
            Self::Mx => TYPE::MX,
            Self::Ns => TYPE::NS,
            Self::Ptr => TYPE::PTR,
            Self::Soa => TYPE::SOA,
            Self::Srv => TYPE::SRV,
            Self::Txt => TYPE::TXT,
        }
    }
}

impl Dns {
    pub(crate) async fn run(
        &self,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let id = u16::try_from(RandomState::new().hash_one(0) & 0xffff).unwrap_or_default();
        let question = self.question(id)?;
        if self.tcp {
            return self.over_tcp(&question, id, way, address, limit).await;
        }
        let socket = open(way, address, Protocol::UDP)?;
        socket.send(&question).await.map_err(|error| Failure::of("send", &error))?;
        let mut datagram = vec![0; LONGEST];
        loop {
            let length = limit.within("answer", socket.recv(&mut datagram)).await?;
            let length = length.map_err(|error| Failure::of("answer", &error))?;
            // What does not answer the question is somebody else's, or a lie.
            if let Some(result) = self.judge(id, &datagram[..length]) {
                return result;
            }
        }
    }

    async fn over_tcp(
        &self,
        question: &[u8],
        id: u16,
        way: Way<'_>,
        address: SocketAddr,
        limit: Limit,
    ) -> Result<Good, Failure> {
        let length = u16::try_from(question.len()).unwrap_or_default().to_be_bytes();
        let mut talk = Talk::open(way, address, Secure::No, LONGEST + 2, limit).await?;
        talk.say(&[&length, question].concat()).await?;
        let answer = talk.hear(|read, _| {
            let (length, rest) = read.split_first_chunk()?;
            rest.get(..usize::from(u16::from_be_bytes(*length))).map(<[u8]>::to_vec)
        });
        let answer = answer.await?;
        self.judge(id, &answer)
            .unwrap_or_else(|| Err(Failure::bad("answer: not to the question that was asked")))
    }

    fn question(&self, id: u16) -> Result<Vec<u8>, Failure> {
        let wrong = |_| Failure::Unable(format!("{:?} is no name", self.name));
        let name = Name::new(self.name.trim_end_matches('.')).map_err(wrong)?;
        let (kind, class) = (QTYPE::TYPE(self.kind.wire()), QCLASS::CLASS(CLASS::IN));
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(name, kind, class, false));
        packet.build_bytes_vec().map_err(wrong)
    }

    /// What a message says of the server; `None` if it is no answer to the question.
    pub(crate) fn judge(&self, id: u16, message: &[u8]) -> Option<Result<Good, Failure>> {
        if !is_possible(message) {
            return None;
        }
        let packet = Packet::parse(message).ok()?;
        let kind = self.kind.wire();
        let is_answer = packet.id() == id
            && packet.has_flags(PacketFlag::RESPONSE)
            && packet.questions.iter().all(|question| {
                question.qtype == QTYPE::TYPE(kind)
                    && is_same(&question.qname.to_string(), &self.name)
            });
        if !is_answer {
            return None;
        }
        // A server that cannot read a question does not always repeat it.
        let code = packet.rcode();
        if packet.questions.is_empty() && code == RCODE::NoError {
            return None;
        }
        if code != RCODE::NoError {
            let code = match code {
                RCODE::ServerFailure => "SERVFAIL".to_owned(),
                RCODE::NameError => "NXDOMAIN".to_owned(),
                RCODE::Refused => "REFUSED".to_owned(),
                other => format!("{other:?}"),
            };
            return Some(Err(Failure::bad(format!("answer {code}"))));
        }
        let records = packet.answers.iter().filter(|record| record.rdata.type_code() == kind);
        let found: Vec<_> = records.filter_map(|record| text(&record.rdata)).collect();
        Some(self.compare(&found, packet.has_flags(PacketFlag::TRUNCATION)))
    }

    fn compare(&self, found: &[String], is_cut: bool) -> Result<Good, Failure> {
        let is_expected = |found: &&String| {
            self.expect.is_empty() || self.expect.iter().any(|it| is_same(it, found))
        };
        if let Some(first) = found.iter().find(is_expected) {
            return Ok(Good::new(format!("answer {first}")));
        }
        if is_cut && self.expect.is_empty() {
            return Ok(Good::new("a truncated answer"));
        }
        let wanted = match &self.expect[..] {
            [] => "any".to_owned(),
            expect => expect.join(" or "),
        };
        let cut = if is_cut { ", truncated: ask over TCP" } else { "" };
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        Err(Failure::bad(format!("answer {found}{cut}, wanted {wanted}")))
    }
}

/// Whether a message has room for as many entries as it says: the parser makes room first.
fn is_possible(message: &[u8]) -> bool {
    let Some((head, rest)) = message.split_first_chunk::<12>() else { return false };
    let count = |at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
    count(4) * 5 + (count(6) + count(8) + count(10)) * 11 <= rest.len()
}

/// What a record says, as it is written in [`Dns::expect`].
fn text(data: &RData<'_>) -> Option<String> {
    Some(match data {
        RData::A(it) => Ipv4Addr::from(it.address).to_string(),
        RData::AAAA(it) => Ipv6Addr::from(it.address).to_string(),
        RData::CNAME(it) => it.0.to_string(),
        RData::NS(it) => it.0.to_string(),
        RData::PTR(it) => it.0.to_string(),
        RData::MX(it) => format!("{} {}", it.preference, it.exchange),
        RData::SRV(it) => format!("{} {} {} {}", it.priority, it.weight, it.port, it.target),
        RData::SOA(it) => format!("{} {}", it.mname, it.rname),
        RData::TXT(it) => String::try_from(it.clone()).ok()?,
        _ => return None,
    })
}

/// Names do not care for case or for the dot at their end.
fn is_same(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}
