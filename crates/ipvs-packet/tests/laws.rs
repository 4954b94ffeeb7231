//! The laws of the crate: values survive, bytes are safe, text forms survive.

use ipvs_packet::{
    AddressFamily, CommandNumber, DaemonRole, DestinationKey, EngineName, ForwardMethod,
    InterfaceName, Netmask, Protocol, Reply, Request, SchedulerName, ServiceKey, SyncId, Timeouts,
    TunnelType, Version, Weight, strategy,
};
use proptest::{collection::vec, prelude::*};

fn config() -> ProptestConfig {
    // Miri is some hundred times slower, and may not write files.
    let cases = if cfg!(miri) { 4 } else { 2000 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// The bytes of a message, which must fill exactly its announced length, over any earlier bytes.
macro_rules! bytes {
    ($message:expr) => {{
        let bytes = $message.to_bytes();
        assert_eq!(bytes.len(), $message.buffer_len());
        let mut longer = vec![0xa5; bytes.len() + 1];
        $message.emit(&mut longer);
        assert_eq!(longer, [&bytes[..], &[0xa5]].concat());
        bytes
    }};
}

/// A decoded message can be encoded and decoded again to the same value.
fn preserve(command: CommandNumber, payload: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(request) = Request::parse(command, payload) {
        prop_assert_eq!(Request::parse(command, &bytes!(request)), Ok(request));
    }
    if let Ok(reply) = Reply::parse(command, payload, None) {
        prop_assert_eq!(Reply::parse(command, &bytes!(reply), None), Ok(reply));
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn requests_survive(request in strategy::request()) {
        prop_assert_eq!(Request::parse(request.command(), &bytes!(request)), Ok(request));
    }

    #[test]
    fn replies_survive(reply in strategy::reply()) {
        prop_assert_eq!(Reply::parse(reply.command(), &bytes!(reply), None), Ok(reply));
    }

    #[test]
    fn any_bytes_are_safe(command in 0..20u8, payload in vec(any::<u8>(), 0..400)) {
        preserve(CommandNumber(command), &payload)?;
    }

    #[test]
    fn changed_requests_are_safe(
        request in strategy::request(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
    ) {
        preserve(request.command(), &changed(bytes!(request), &changes, length))?;
    }

    #[test]
    fn changed_replies_are_safe(
        reply in strategy::reply(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
    ) {
        preserve(reply.command(), &changed(bytes!(reply), &changes, length))?;
    }

    #[test]
    fn an_entry_of_a_list_reads_as_a_reply(
        reply in strategy::reply(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length in any::<prop::sample::Index>(),
    ) {
        let expected = reply.command();
        let payload = changed(bytes!(reply), &changes, length);
        let entry = [&[expected.0, 1, 0, 0], &payload[..]].concat();
        let read = Reply::parse_entry(expected, &entry, None).ok();
        prop_assert_eq!(read, Reply::parse(expected, &payload, None).ok());
    }

    /// The key comes first: unreadable attributes after it do not hide it.
    #[test]
    fn an_entry_with_a_broken_end_tells_its_key(
        service in strategy::service_entry(),
        destination in strategy::destination_entry(),
        key in strategy::service_key(),
    ) {
        // An attribute that claims to be longer than the nest.
        let broken = |reply: &Reply| {
            let mut entry = vec![reply.command().0, 1, 0, 0];
            entry.extend(bytes!(reply));
            let nest = usize::from(u16::from_ne_bytes([entry[4], entry[5]]));
            entry.truncate(4 + nest);
            entry.extend([0xff, 0x7f, 99, 0]);
            let length = u16::try_from(nest + 4).expect("it is short");
            entry[4..6].copy_from_slice(&length.to_ne_bytes());
            entry
        };
        let expected = *service.service.key();
        let entry = broken(&Reply::Service(service));
        let unreadable = Reply::parse_entry(CommandNumber::NEW_SERVICE, &entry, None).unwrap_err();
        prop_assert_eq!((unreadable.service, unreadable.destination), (Some(expected), None));
        let expected = destination.destination.key;
        let entry = broken(&Reply::Destination(destination));
        let unreadable = Reply::parse_entry(CommandNumber::NEW_DEST, &entry, Some(&key)).unwrap_err();
        prop_assert_eq!((unreadable.service, unreadable.destination), (Some(key), Some(expected)));
        prop_assert!(unreadable.to_string().contains("truncated"));
    }

    #[test]
    fn service_keys_survive_as_text(key in strategy::service_key()) {
        prop_assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn destination_keys_survive_as_text(key in strategy::destination_key()) {
        prop_assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn netmasks_survive_as_text(
        netmask in strategy::family().prop_flat_map(strategy::netmask)
    ) {
        prop_assert_eq!(netmask.to_string().parse(), Ok(netmask));
        prop_assert_eq!(Netmask::from_text(netmask.family(), &netmask.to_string()), Ok(netmask));
        if let Some(length) = netmask.prefix_length() {
            prop_assert_eq!(Netmask::prefix(netmask.family(), length), Ok(netmask));
        }
    }

    #[test]
    fn versions_survive_as_text(version in any::<u32>().prop_map(Version)) {
        prop_assert_eq!(version.to_string().parse(), Ok(version));
    }

    #[test]
    fn numbers_survive_as_text(
        timeouts in strategy::timeouts(),
        weight in strategy::weight(),
        sync_id in any::<u8>().prop_map(SyncId::from),
        family in strategy::family(),
    ) {
        prop_assert_eq!(timeouts.to_string().parse(), Ok(timeouts));
        prop_assert_eq!(weight.to_string().parse(), Ok(weight));
        prop_assert_eq!(sync_id.to_string().parse(), Ok(sync_id));
        prop_assert_eq!(family.to_string().parse(), Ok(family));
    }

    #[test]
    fn open_sets_survive_as_text(
        protocol in strategy::protocol(),
        forward in strategy::forward_method(),
        tunnel in strategy::tunnel(),
        role in (0..4u32).prop_map(DaemonRole),
    ) {
        prop_assert_eq!(protocol.to_string().parse(), Ok(protocol));
        prop_assert_eq!(forward.to_string().parse(), Ok(forward));
        prop_assert_eq!(tunnel.kind().to_string().parse(), Ok(tunnel.kind()));
        prop_assert_eq!(role.to_string().parse(), Ok(role));
    }

    /// A value parsed from any text can be printed and parsed again to the same value.
    #[test]
    fn any_text_is_safe(text in prop_oneof!["\\PC*", "(-t|-u|-f|--protocol) [0-9a-f:.%/ \\[\\]-]*", "[0-9 +-]*", "[A-Za-z]{3,10}_?[0-9]*"]) {
        fn check<T>(text: &str) -> Result<(), TestCaseError>
        where
            T: std::str::FromStr<Err: std::fmt::Debug + PartialEq> + ToString + PartialEq + std::fmt::Debug,
        {
            if let Ok(value) = text.parse::<T>() {
                prop_assert_eq!(value.to_string().parse::<T>(), Ok(value));
            }
            Ok(())
        }
        check::<ServiceKey>(&text)?;
        check::<DestinationKey>(&text)?;
        check::<Netmask>(&text)?;
        check::<Version>(&text)?;
        check::<Timeouts>(&text)?;
        check::<Weight>(&text)?;
        check::<SyncId>(&text)?;
        check::<AddressFamily>(&text)?;
        check::<Protocol>(&text)?;
        check::<ForwardMethod>(&text)?;
        check::<TunnelType>(&text)?;
        check::<DaemonRole>(&text)?;
        check::<SchedulerName>(&text)?;
        check::<EngineName>(&text)?;
        check::<InterfaceName>(&text)?;
    }
}

/// Changes some bytes and cuts some off; half of the time at the end.
fn changed(
    mut bytes: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
    length: prop::sample::Index,
) -> Vec<u8> {
    if !bytes.is_empty() {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes.truncate(length.index(2 * bytes.len()));
    }
    bytes
}
