//! Any text parses or is refused. A parsed value can be printed and parsed again to the same value.
#![no_main]

use std::{fmt::Debug, str::FromStr};

use ipvs_packet::{
    AddressFamily, DaemonRole, DestinationKey, EngineName, ForwardMethod, InterfaceName, Netmask,
    Protocol, SchedulerName, ServiceKey, SyncId, Timeouts, TunnelType, Version, Weight,
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
    check::<Timeouts>(text);
    check::<Weight>(text);
    check::<SyncId>(text);
    check::<AddressFamily>(text);
    check::<Protocol>(text);
    check::<ForwardMethod>(text);
    check::<TunnelType>(text);
    check::<DaemonRole>(text);
    check::<SchedulerName>(text);
    check::<EngineName>(text);
    check::<InterfaceName>(text);
});
