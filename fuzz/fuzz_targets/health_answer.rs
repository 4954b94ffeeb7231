//! What a server under a health check may say: any bytes are an answer or none, and end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_health::check::{
    Agent, Dns, Failure, Grpc, Http, Kind, Line, RecordType, Smtp, Text, Tls, Udp, said,
};
use tokio::runtime::Builder;

fn kind(number: u8) -> Kind {
    let dns = |kind| {
        let mut dns = Dns::default();
        (dns.name, dns.kind) = ("a".to_owned(), kind);
        dns.expect = vec!["10.0.0.1".to_owned()];
        Kind::Dns(dns)
    };
    match number % 14 {
        0 => Kind::Line(Line::redis()),
        1 => Kind::Line(Line::mysql()),
        2 => Kind::Smtp(Smtp::default()),
        3 => Kind::Agent(Agent::default()),
        4 => Kind::Udp({
            let mut udp = Udp::default();
            udp.expect = vec![Text::from(&b"ok"[..])];
            udp
        }),
        5 => Kind::Icmp,
        6 => dns(RecordType::A),
        7 => dns(RecordType::Mx),
        8 => dns(RecordType::Txt),
        9 => dns(RecordType::Srv),
        10 => Kind::Tls(Tls::default()),
        11 => Kind::Grpc(Grpc::default()),
        number => Kind::Http({
            let mut http = Http::default();
            http.http2 = number == 13;
            http.pattern = Some("a+b".parse().expect("a pattern"));
            http
        }),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((number, answer)) = bytes.split_first() else { return };
    // One for each input: what HTTP/2 spawned ends with it.
    let runtime = Builder::new_current_thread().build().expect("a runtime can be made");
    let result = runtime.block_on(said(&kind(*number), answer));
    let text = match &result {
        Some(Ok(good)) => &good.detail,
        Some(Err(Failure::Bad(reason) | Failure::Unable(reason))) => reason,
        Some(Err(failure)) => panic!("{failure:?} is not for a server to cause"),
        None => return,
    };
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.chars().count() <= 1000, "{text:?}");
});
