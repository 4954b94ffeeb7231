//! Any text parses as rules, or is refused with places inside the text. Parsed rules can be printed and
//! parsed again to the same value.
#![no_main]

use ipvs_table::{
    Place, Rules,
    packet::{ForwardMethod, Netmask, Request, ServiceFlags, Tunnel},
};
use libfuzzer_sys::fuzz_target;

/// Removes settings without effect, which are not printed: the timeout and netmask of a service that is not
/// persistent, and the encapsulation of a real server without a tunnel.
fn effective(mut request: Request) -> Request {
    match &mut request {
        Request::NewService(service) | Request::SetService(service)
            if !service.flags.contains(ServiceFlags::PERSISTENT) =>
        {
            service.timeout = 0;
            let host = Netmask::host(service.key().family());
            service.set_netmask(host).expect("it is of the service's family");
        }
        Request::NewDestination(_, destination) | Request::SetDestination(_, destination)
            if destination.forward != ForwardMethod::TUNNEL =>
        {
            destination.tunnel = Tunnel::IPIP;
        }
        _ => {}
    }
    request
}

fuzz_target!(|text: &str| {
    match text.parse::<Rules>() {
        Ok(rules) => {
            let read: Rules = rules.to_string().parse().expect("what is written can be read");
            assert!(read.requests().map(effective).eq(rules.requests().map(effective)), "{rules}");
            if let Ok(table) = rules.table() {
                // What has no effect is not written, so that the first time counts.
                let saved = Rules::from(&table).to_string();
                if let Ok(again) = saved.parse::<Rules>() {
                    assert_eq!(again.to_string(), saved);
                }
            }
        }
        Err(mistakes) => {
            assert!(mistakes.iter().next().is_some());
            let lines: Vec<&str> = text.lines().collect();
            for mistake in &mistakes {
                let Place::Line { line, column } = mistake.place() else {
                    panic!("{mistake}");
                };
                let length = lines[line - 1].chars().count();
                assert!((1..=length + 1).contains(column), "{mistake}");
            }
        }
    }
});
