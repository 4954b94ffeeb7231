//! Tests of `error.rs`.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use ipvs_packet::{CommandNumber, Reply, ServiceKey};

use super::*;

#[test]
fn debug_is_the_text_with_its_cause() {
    let key: ServiceKey = "-t 10.0.0.185:80".parse().unwrap();
    let error = Error::kernel(&Request::GetService(key), errno::SRCH, Some("no".to_owned()));
    let text = "reading service -t 10.0.0.185:80 (GET_SERVICE): the service does not exist (ESRCH, \
                errno 3); the kernel says: no";
    assert_eq!(error.to_string(), text);
    assert_eq!(format!("{error:?}"), text);

    let cause = Reply::parse(CommandNumber::NEW_SERVICE, &[1], None).unwrap_err();
    let error = Error::parse(Operation(&Request::ListServices), cause);
    let debug = format!("{error:?}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(debug.starts_with(&error.to_string()) && debug.ends_with(&cause), "{debug}");

    let error = Error::file("looking", ErrorKind::Os, "it failed", io::ErrorKind::Other.into());
    assert_eq!(format!("{error:?}"), "looking: it failed: other error");
}

#[test]
fn without_ipvs_the_error_says_what_to_do() {
    let error = Error::kernel(&Request::GetInfo, errno::NOENT, None).to_string();
    assert!(error.contains("modprobe ip_vs") && error.contains("on the host"), "{error}");
}
