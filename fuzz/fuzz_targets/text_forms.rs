//! Any text is read or refused, and what is read is written in a form that reads as the same.
#![no_main]

use std::{fmt::Debug, str::FromStr};

use ipvs_packet::{
    DestinationKey, EngineName, InterfaceName, Netmask, SchedulerName, ServiceKey, Version,
};
use libfuzzer_sys::fuzz_target;

fn check<T: FromStr<Err: Debug + PartialEq> + ToString + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse(), Ok(value));
    }
}

fuzz_target!(|text: &str| {
    check::<ServiceKey>(text);
    check::<DestinationKey>(text);
    check::<Netmask>(text);
    check::<Version>(text);
    check::<SchedulerName>(text);
    check::<EngineName>(text);
    check::<InterfaceName>(text);
});
