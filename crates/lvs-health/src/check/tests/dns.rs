//! DNS, and what lies about it.

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE,
    rdata::{A, MX, RData, TXT},
};
use tokio::net::UdpSocket;

use super::*;

fn a(name: &str, expect: &[&str]) -> Dns {
    let expect = expect.iter().map(|it| (*it).to_owned()).collect();
    Dns { name: name.to_owned(), kind: RecordType::A, expect, tcp: false }
}

/// What a server that knows one zone answers; the name says what it does.
fn answer(question: &[u8]) -> Vec<Vec<u8>> {
    let packet = Packet::parse(question).unwrap();
    let asked = packet.questions[0].clone();
    let name = asked.qname.to_string();
    let mut reply = Packet::new_reply(packet.id());
    reply.questions = packet.questions.clone();
    let data = match asked.qtype {
        QTYPE::TYPE(TYPE::A) => RData::A(A { address: 0x0a00_0001 }),
        QTYPE::TYPE(TYPE::TXT) => RData::TXT(TXT::new().with_string("all is well").unwrap()),
        _ => RData::MX(MX { preference: 10, exchange: Name::new("Mail.example").unwrap() }),
    };
    reply.answers.push(ResourceRecord::new(asked.qname, CLASS::IN, 60, data));
    let right = reply.build_bytes_vec().unwrap();
    match name.as_str() {
        "none.example" => reply.answers.clear(),
        "missing.example" => *reply.rcode_mut() = RCODE::NameError,
        "sick.example" => *reply.rcode_mut() = RCODE::ServerFailure,
        "cut.example" => {
            reply.answers.clear();
            reply.set_flags(PacketFlag::TRUNCATION);
        }
        "liar.example" => {
            // Another number, no answer at all, another question, rubbish, counts that are not there; and
            // then the truth.
            let mut number = Packet::parse(&right).unwrap();
            number.set_id(packet.id() ^ 1);
            let mut echo = Packet::parse(&right).unwrap();
            echo.remove_flags(PacketFlag::RESPONSE);
            let mut other = Packet::parse(&right).unwrap();
            other.questions[0].qname = Name::new("other.example").unwrap();
            let mut lies: Vec<_> =
                [number, echo, other].iter().map(|it| it.build_bytes_vec().unwrap()).collect();
            lies.push(b"\0".to_vec());
            lies.push(vec![0xff; 600]);
            let counts = [&right[..4], &[0xff; 8], &right[12..]].concat();
            lies.push(counts);
            // A name that points to itself.
            lies.push([&right[..12], &[0xc0, 0x0c, 0, 1, 0, 1]].concat());
            lies.push(right);
            return lies;
        }
        _ => {}
    }
    vec![reply.build_bytes_vec().unwrap()]
}

async fn udp() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            for answer in answer(&datagram[..length]) {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    address
}

async fn tcp() -> SocketAddr {
    server(|mut stream| async move {
        let length = stream.read_u16().await.unwrap();
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await.unwrap();
        for answer in answer(&question) {
            let _ = stream.write_u16(u16::try_from(answer.len()).unwrap()).await;
            // In two parts.
            let (one, other) = answer.split_at(answer.len() / 2);
            let _ = stream.write_all(one).await;
            let _ = stream.flush().await;
            let _ = stream.write_all(other).await;
        }
    })
    .await
}

#[tokio::test]
async fn questions_are_answered() {
    for (address, tcp) in [(udp().await, false), (tcp().await, true)] {
        let ask = |dns: Dns| run(Kind::Dns(Dns { tcp, ..dns }), address);
        assert_eq!(ask(a("web.example", &[])).await.unwrap(), "answer 10.0.0.1");
        assert_eq!(
            ask(a("web.example.", &["10.0.0.9", "10.0.0.1"])).await.unwrap(),
            "answer 10.0.0.1"
        );
        let wrong = ask(a("web.example", &["10.0.0.2"])).await.unwrap_err();
        assert_eq!(wrong, "answer 10.0.0.1, wanted 10.0.0.2");
        let mx = |expect: &str| Dns { kind: RecordType::Mx, ..a("example", &[expect]) };
        ask(mx("10 mail.example.")).await.unwrap();
        ask(mx("20 mail.example")).await.unwrap_err();
        let txt = Dns { kind: RecordType::Txt, ..a("example", &["all is well"]) };
        assert_eq!(ask(txt).await.unwrap(), "answer all is well");
        for (name, reason) in [
            ("none.example", "answer nothing, wanted any"),
            ("missing.example", "answer NXDOMAIN"),
            ("sick.example", "answer SERVFAIL"),
        ] {
            assert_eq!(ask(a(name, &[])).await.unwrap_err(), reason);
        }
        assert_eq!(ask(a("cut.example", &[])).await.unwrap(), "a truncated answer");
        let cut = ask(a("cut.example", &["10.0.0.1"])).await.unwrap_err();
        assert_eq!(cut, "answer nothing, truncated: ask over TCP, wanted 10.0.0.1");
        let long = "a".repeat(64);
        assert!(ask(a(&long, &[])).await.unwrap_err().ends_with("is no name"));
    }
}

#[tokio::test]
async fn lies_are_no_answers() {
    let truth = run(Kind::Dns(a("liar.example", &[])), udp().await).await;
    assert_eq!(truth.unwrap(), "answer 10.0.0.1", "it waits for the truth");
    let reason = run(Kind::Dns(Dns { tcp: true, ..a("liar.example", &[]) }), tcp().await).await;
    assert_eq!(reason.unwrap_err(), "answer: not to the question that was asked");
}
