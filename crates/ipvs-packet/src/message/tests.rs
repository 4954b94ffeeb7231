//! Tests of `message.rs`.

use std::num::NonZeroU32;

use super::*;
use crate::{
    Ipv6Prefix, Netmask, ServiceFlags, Statistics, Tunnel, TunnelFlags, TunnelType, Weight,
};

fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(number.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn u16(number: u16, value: u16) -> Vec<u8> {
    attribute(number, &value.to_ne_bytes())
}

fn u32(number: u16, value: u32) -> Vec<u8> {
    attribute(number, &value.to_ne_bytes())
}

fn u64(number: u16, value: u64) -> Vec<u8> {
    attribute(number, &value.to_ne_bytes())
}

fn key() -> Vec<Vec<u8>> {
    vec![u16(1, 2), u16(2, 6), attribute(3, &[10, 0, 0, 185]), attribute(4, &[0, 80])]
}

fn settings() -> Vec<Vec<u8>> {
    let flags = [1_u32.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
    vec![
        attribute(6, b"rr\0"),
        attribute(7, &flags),
        u32(8, 300),
        attribute(9, &[255, 255, 255, 0]),
    ]
}

fn service_nest() -> Vec<u8> {
    attribute(1, &[key(), settings()].concat().concat())
}

fn destination() -> Vec<Vec<u8>> {
    vec![
        attribute(1, &[172, 17, 0, 3]),
        attribute(2, &[0x1f, 0x90]),
        u32(3, 3),
        u32(4, 7),
        u32(5, 100),
        u32(6, 50),
    ]
}

fn service(payload: &[u8]) -> ServiceEntry {
    match Reply::parse(CommandNumber::NEW_SERVICE, payload, None) {
        Ok(Reply::Service(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

fn destination_entry(parts: &[Vec<u8>], family: Option<AddressFamily>) -> DestinationEntry {
    match Reply::parse(CommandNumber::NEW_DEST, &attribute(2, &parts.concat()), family) {
        Ok(Reply::Destination(entry)) => entry,
        other => panic!("{other:?}"),
    }
}

fn refusal(command: CommandNumber, payload: &[u8]) -> String {
    Reply::parse(command, payload, None).unwrap_err().to_string()
}

#[test]
fn a_service_is_read() {
    let entry = service(&service_nest());
    assert_eq!(entry.service.key().to_string(), "-t 10.0.0.185:80");
    assert_eq!(entry.service.scheduler.as_str(), "rr");
    assert_eq!(entry.service.flags, ServiceFlags::PERSISTENT);
    assert_eq!(entry.service.flags_mask, u32::MAX);
    assert_eq!(entry.service.timeout, 300);
    assert_eq!(entry.service.netmask().to_string(), "255.255.255.0");
    assert_eq!(entry.service.engine, None);
    assert_eq!(entry.statistics, Statistics::default());
}

#[test]
fn the_nested_flag_makes_no_difference() {
    let mut flagged = service_nest();
    flagged[2..4].copy_from_slice(&(1_u16 | 0x8000).to_ne_bytes());
    assert_eq!(service(&flagged), service(&service_nest()));
}

#[test]
fn the_last_duplicate_wins() {
    let nest = [key(), settings(), vec![attribute(6, b"wrr\0")]].concat().concat();
    assert_eq!(service(&attribute(1, &nest)).service.scheduler.as_str(), "wrr");
}

#[test]
fn the_last_padding_may_be_left_out() {
    let unpadded = |number, value: &[u8]| {
        let mut bytes = attribute(number, value);
        bytes.truncate(4 + value.len());
        bytes
    };
    let nest = [key(), settings(), vec![unpadded(13, b"abc")]].concat().concat();
    let payload = unpadded(1, &nest);
    let entry = service(&payload);
    assert_eq!(entry.unknown.iter(Level::Service).collect::<Vec<_>>(), [(13, &b"abc"[..])]);
}

#[test]
fn longer_numbers_are_read_by_their_prefix() {
    let mut wide = settings();
    wide[2] = attribute(8, &[&7_u32.to_ne_bytes()[..], &[1, 2, 3, 4]].concat());
    let entry = service(&attribute(1, &[key(), wide].concat().concat()));
    assert_eq!(entry.service.timeout, 7);
}

#[test]
fn short_flags_have_no_mask() {
    let mut short = settings();
    short[1] = u32(7, 5);
    let entry = service(&attribute(1, &[key(), short].concat().concat()));
    assert_eq!(entry.service.flags.bits(), 5);
    assert_eq!(entry.service.flags_mask, 0);
}

#[test]
fn a_mark_wins_over_an_address() {
    let nest = [key(), vec![u32(5, 10)], settings()].concat().concat();
    let mark = NonZeroU32::new(10).unwrap();
    assert_eq!(
        *service(&attribute(1, &nest)).service.key(),
        ServiceKey::mark(mark, AddressFamily::Ipv4)
    );
    let nest = [vec![u16(1, 10), u32(5, 0)], settings()].concat().concat();
    let nest = attribute(1, &nest);
    // The mask of settings() is no IPv6 prefix.
    assert!(Reply::parse(CommandNumber::NEW_SERVICE, &nest, None).is_err());
    assert_eq!(
        Request::parse(CommandNumber::DEL_SERVICE, &nest).unwrap(),
        Request::DeleteService("-t [::]:0".parse().unwrap())
    );
}

#[test]
fn ipv6_netmasks_are_prefix_lengths() {
    let key = || vec![u16(1, 10), u32(5, 1)];
    let with = |length| {
        let mut settings = settings();
        settings[3] = u32(9, length);
        attribute(1, &[key(), settings].concat().concat())
    };
    let netmask = service(&with(64)).service.netmask();
    assert_eq!(netmask, Netmask::Ipv6(Ipv6Prefix::new(64).unwrap()));
    for wrong in [0, 129, 256 + 64] {
        let text = refusal(CommandNumber::NEW_SERVICE, &with(wrong));
        assert!(text.contains("IPVS_SVC_ATTR_NETMASK"), "{text}");
    }
}

#[test]
fn narrow_statistics_are_widened_and_wide_ones_win() {
    let narrow = [u32(1, 7), u64(4, 1 << 40)].concat();
    let nest = [key(), settings(), vec![attribute(10, &narrow)]].concat();
    let statistics = service(&attribute(1, &nest.concat())).statistics;
    assert_eq!((statistics.connections, statistics.incoming_bytes), (7, 1 << 40));

    // PAD (11) is skipped in any place.
    let wide = [attribute(11, &[]), u64(1, 1 << 33), attribute(11, &[0; 4])].concat();
    let nest = [vec![attribute(12, &wide)], nest].concat();
    let entry = service(&attribute(1, &nest.concat()));
    assert_eq!(entry.statistics.connections, 1 << 33);
    assert!(entry.unknown.is_empty());
}

#[test]
fn a_destination_without_optional_attributes_is_read() {
    let entry = destination_entry(&destination(), Some(AddressFamily::Ipv4));
    assert_eq!(entry.destination.key.to_string(), "172.17.0.3:8080");
    assert_eq!(entry.destination.weight, Weight::from(7));
    assert_eq!(entry.destination.tunnel, Tunnel::IPIP);
    assert_eq!(entry.active_connections, 0);
    // Without the family, the address is ambiguous.
    let text = refusal(CommandNumber::NEW_DEST, &attribute(2, &destination().concat()));
    assert!(text.contains("IPVS_DEST_ATTR_ADDR_FAMILY at byte"), "{text}");
    // Family 0 counts as none.
    let parts = [destination(), vec![u16(11, 0)]].concat();
    assert_eq!(destination_entry(&parts, Some(AddressFamily::Ipv4)), entry);
}

#[test]
fn tunnels_are_read() {
    let tunnel = vec![attribute(13, &[1]), attribute(14, &[0x17, 0xc0]), u16(15, 1), u16(11, 2)];
    let entry = destination_entry(&[destination(), tunnel].concat(), None);
    let expected = Tunnel::new(TunnelType::GUE, 6080, TunnelFlags::CHECKSUM).unwrap();
    assert_eq!(entry.destination.tunnel, expected);
}

#[test]
fn weights_are_not_negative() {
    let parts = [destination(), vec![u32(4, 1 << 31), u16(11, 2)]].concat();
    let text = refusal(CommandNumber::NEW_DEST, &attribute(2, &parts.concat()));
    assert!(text.contains("IPVS_DEST_ATTR_WEIGHT"), "{text}");
}

#[test]
fn daemons_are_read_with_one_group() {
    let daemon = [
        u32(1, 2),
        attribute(2, b"eth0\0"),
        u32(3, 300),
        attribute(6, &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        u16(7, 8848),
        attribute(8, &[0]),
    ];
    let read = |parts: &[Vec<u8>]| {
        Reply::parse(CommandNumber::NEW_DAEMON, &attribute(3, &parts.concat()), None)
    };
    let Ok(Reply::Daemon(entry)) = read(&daemon) else { panic!("{:?}", read(&daemon)) };
    // The kernel keeps any number.
    assert_eq!(entry.daemon.sync_id.get(), 300);
    assert_eq!(entry.daemon.group(), "ff02::1".parse().ok());
    assert_eq!(entry.daemon.ttl, None);

    let both = [&daemon[..], &[attribute(5, &[224, 0, 0, 81])]].concat();
    let Ok(Reply::Daemon(entry)) = read(&both) else { panic!("{:?}", read(&both)) };
    assert_eq!(entry.daemon.group(), "224.0.0.81".parse().ok());

    let wrong = [&daemon[..], &[attribute(5, &[10, 0, 0, 1])]].concat();
    let text = read(&wrong).unwrap_err().to_string();
    assert!(text.contains("IPVS_DAEMON_ATTR_MCAST_GROUP"), "{text}");
}

#[test]
fn what_is_not_known_is_kept_and_written_again() {
    let statistics = [u64(1, 1), attribute(12, &[9])].concat();
    let nest =
        [key(), settings(), vec![attribute(13 | 0x8000, &[1, 2, 3]), attribute(12, &statistics)]];
    let payload =
        [attribute(2, &[4]), attribute(1, &nest.concat().concat()), attribute(0, &[])].concat();
    let entry = service(&payload);
    let kept = |level| entry.unknown.iter(level).collect::<Vec<_>>();
    assert_eq!(kept(Level::ServiceMessage), [(2, &[4][..]), (0, &[])]);
    assert_eq!(kept(Level::Service), [(13 | 0x8000, &[1, 2, 3][..])]);
    assert_eq!(kept(Level::Statistics64), [(12, &[9][..])]);
    let reply = Reply::Service(entry.clone());
    assert_eq!(service(&reply.to_bytes()), entry);
}

#[test]
fn unknown_commands_are_data() {
    for (number, payload) in [(0, &[][..]), (18, &[1, 2, 3]), (255, &[0xff; 9])] {
        let (command, payload) = (CommandNumber(number), payload.to_vec());
        let expected = Reply::Other { command, payload: payload.clone() };
        assert_eq!(Reply::parse(command, &payload, None), Ok(expected));
        let expected = Request::Other { command, payload: payload.clone() };
        assert_eq!(Request::parse(command, &payload), Ok(expected));
    }
}

#[test]
fn info_has_numbers_of_its_own() {
    let payload = [u32(1, 0x01_0201), u32(2, 4096)].concat();
    let Ok(Reply::Info(info, unknown)) = Reply::parse(CommandNumber::SET_INFO, &payload, None)
    else {
        panic!("no info");
    };
    assert_eq!((info.version.to_string().as_str(), info.connection_table_size), ("1.2.1", 4096));
    assert!(unknown.is_empty());
}

#[test]
fn timeouts_may_be_left_out() {
    let reply = Reply::parse(CommandNumber::SET_CONFIG, &u32(6, 300), None);
    let timeouts = Timeouts { udp: 300, ..Timeouts::default() };
    assert_eq!(reply, Ok(Reply::Timeouts(timeouts, UnknownAttributes::new())));
}

#[test]
fn errors_name_command_attribute_and_offset() {
    let mut short = settings();
    short[2] = u16(8, 1);
    let payload = attribute(1, &[key(), short].concat().concat());
    assert_eq!(
        refusal(CommandNumber::NEW_SERVICE, &payload),
        "IPVS message NEW_SERVICE: IPVS_SVC_ATTR_TIMEOUT at byte 56: too short: 2 bytes where 4 \
         are needed"
    );
    assert_eq!(
        refusal(CommandNumber::NEW_SERVICE, &attribute(1, &settings().concat())),
        "IPVS message NEW_SERVICE: IPVS_SVC_ATTR_AF at byte 40: missing"
    );
    assert_eq!(
        refusal(CommandNumber::NEW_DEST, &[]),
        "IPVS message NEW_DEST: IPVS_CMD_ATTR_DEST at byte 0: missing"
    );
    assert_eq!(
        refusal(CommandNumber::SET_INFO, &[9]),
        "IPVS message SET_INFO: info attribute at byte 0: truncated: 4 bytes are needed and 1 are left"
    );
    let mut long = service_nest();
    long[..2].copy_from_slice(&u16::MAX.to_ne_bytes());
    assert!(refusal(CommandNumber::NEW_SERVICE, &long).contains("truncated: 65535 bytes"));
    let error = Reply::parse(CommandNumber::NEW_SERVICE, &payload, None).unwrap_err();
    assert_eq!(error.command(), Some(CommandNumber::NEW_SERVICE));
    assert_eq!(error.attribute(), Some(8));
    assert_eq!(error.attribute_name(), Some("IPVS_SVC_ATTR_TIMEOUT"));
    assert_eq!(error.offset(), 56);
}

#[test]
fn hashed_is_the_kernels() {
    let mut service = Service::new("-f 1".parse().unwrap());
    let plain = service.clone();
    service.flags |= ServiceFlags::HASHED;
    assert_eq!(service, plain);
    let bytes = |service| Request::NewService(service).to_bytes();
    assert_eq!(bytes(service), bytes(plain));
}

#[test]
fn more_unknown_than_fits_is_refused() {
    let unknown = attribute(13, &[0; 16 * 1024]);
    let payload = attribute(1, &[key(), settings(), vec![unknown]].concat().concat());
    let text = refusal(CommandNumber::NEW_SERVICE, &payload);
    assert!(text.contains("16 KiB"), "{text}");
}
