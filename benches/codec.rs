//! Encoding and decoding the same IPVS messages with ipvs-packet, with netlink-packet-ipvs and with
//! nlrs, and walking the same bytes without decoding them. README.md shows the table that it
//! prints at its end.

use std::{
    fs,
    hint::black_box,
    io::Cursor,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use criterion::{Criterion, Throughput};
use ipvs_packet::{
    CommandNumber, Destination, DestinationEntry, FAMILY_VERSION, ForwardMethod, Reply, Request,
    SchedulerName, Service, ServiceEntry, ServiceKey, Weight,
};
use netlink_packet_core::NLM_F_MULTIPART;

/// Where criterion leaves its estimates, and where the table takes them from.
const OUTPUT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/codec");

const OURS: &str = "ipvs-packet";
const PEERS: [&str; 2] = ["netlink-packet-ipvs", "nlrs"];
const FLOOR: &str = "floor";

const MASQUERADE: ForwardMethod = ForwardMethod::MASQUERADE;
const DIRECT_ROUTE: ForwardMethod = ForwardMethod::DIRECT_ROUTE;

fn main() {
    let directory = Path::new(OUTPUT);
    // The table is of this run alone.
    let _ = fs::remove_dir_all(directory);
    let mut criterion = Criterion::default().output_directory(directory).configure_from_args();
    let rows = [
        encode_service(&mut criterion),
        encode_destination(&mut criterion),
        decode_service(&mut criterion),
        decode_destinations(&mut criterion, "decode 1 destination", 1, MASQUERADE),
        decode_destinations(&mut criterion, "decode 1 direct-routed destination", 1, DIRECT_ROUTE),
        decode_destinations(&mut criterion, "decode 10,000 destinations", 10_000, MASQUERADE),
    ];
    criterion.final_summary();
    print_table(&rows);
}

/// A library, and the work done with it, which returns something of the result.
struct Contender<'a>(&'static str, Box<dyn FnMut() -> usize + 'a>);

/// A row of the table: its name, and the peers that cannot do it.
struct Row {
    name: &'static str,
    failed: Vec<&'static str>,
}

impl Row {
    /// Measures each contender that can do the work at all; the peers panic on some input.
    fn measure(
        criterion: &mut Criterion,
        name: &'static str,
        bytes: usize,
        contenders: Vec<Contender<'_>>,
    ) -> Self {
        let mut failed = Vec::new();
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes as u64));
        for Contender(contender, mut work) in contenders {
            if catch_unwind(AssertUnwindSafe(&mut work)).is_ok() {
                group.bench_function(contender, |bencher| bencher.iter(&mut work));
            } else {
                eprintln!("{name}: {contender} fails");
                failed.push(contender);
            }
        }
        group.finish();
        Self { name, failed }
    }
}

fn service_address() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 185], 80))
}

fn destination_address(index: usize) -> SocketAddr {
    let [.., a, b] = index.to_be_bytes();
    SocketAddr::from(([172, 17, a, b], 80))
}

fn service() -> Service {
    let mut service = Service::new(ServiceKey::tcp(service_address()).expect("IPv4"));
    service.scheduler = SchedulerName::WLC;
    service
}

fn destination(index: usize) -> Destination {
    let mut destination = Destination::new(destination_address(index).try_into().expect("IPv4"));
    destination.weight = Weight::from(3);
    destination
}

/// A complete netlink message from ipvs-packet, ready for a socket.
fn netlink(request: &Request, buffer: &mut Vec<u8>) -> usize {
    buffer.clear();
    let (flags, length) = (request.flags(), request.buffer_len());
    request.emit(append(buffer, 0, flags, request.command(), length));
    buffer.len()
}

/// Appends both headers of a message, and returns the place for its payload.
fn append(
    messages: &mut Vec<u8>,
    family: u16,
    flags: u16,
    command: CommandNumber,
    payload: usize,
) -> &mut [u8] {
    let start = messages.len();
    let length = 20 + payload;
    messages.resize(start + length.next_multiple_of(4), 0);
    let message = &mut messages[start..];
    message[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&family.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message[16..18].copy_from_slice(&[command.0, FAMILY_VERSION]);
    &mut message[20..]
}

fn encode_service(criterion: &mut Criterion) -> Row {
    let service = service();
    let peer_service = peer_service();
    let mut buffer = Vec::new();
    let mut peer_buffer = Cursor::new(Vec::new());
    let bytes = netlink(&Request::NewService(service.clone()), &mut buffer);
    Row::measure(
        criterion,
        "encode NEW_SERVICE",
        bytes,
        vec![
            Contender(
                OURS,
                Box::new(|| netlink(&Request::NewService(service.clone()), &mut buffer)),
            ),
            Contender(
                PEERS[0],
                Box::new(|| {
                    use netlink_packet_ipvs::ctrl::{
                        IpvsCtrlCmd, IpvsServiceCtrl, nlas::IpvsCtrlAttrs,
                    };
                    let message = IpvsServiceCtrl {
                        cmd: IpvsCtrlCmd::NewService,
                        nlas: vec![IpvsCtrlAttrs::Service(peer_service.create_nlas())],
                        family_id: 34,
                    };
                    message.serialize(false).len()
                }),
            ),
            Contender(
                PEERS[1],
                Box::new(|| {
                    use nlrs::{
                        genetlink::GenericMessageBuilder,
                        ipvs::{Protocol, service::NewServiceMessageBuilder},
                        netlink::msg::NlMsgHeader,
                    };
                    peer_buffer.set_position(0);
                    NewServiceMessageBuilder::new_with_default(
                        &mut peer_buffer,
                        NlMsgHeader::new_with_seq_and_pid(0, 0),
                        service_address(),
                        Protocol::TCP,
                    )
                    .build()
                    .expect("a vector takes every byte")
                    .1
                }),
            ),
        ],
    )
}

fn encode_destination(criterion: &mut Criterion) -> Row {
    let key = *service().key();
    let destination = destination(3);
    let peer_service = peer_service();
    let mut buffer = Vec::new();
    let mut peer_buffer = Cursor::new(Vec::new());
    let bytes = netlink(&Request::NewDestination(key, destination.clone()), &mut buffer);
    Row::measure(
        criterion,
        "encode NEW_DEST",
        bytes,
        vec![
            Contender(
                OURS,
                Box::new(|| {
                    netlink(&Request::NewDestination(key, destination.clone()), &mut buffer)
                }),
            ),
            Contender(
                PEERS[0],
                Box::new(|| {
                    use netlink_packet_ipvs::ctrl::{
                        IpvsCtrlCmd, IpvsServiceCtrl,
                        nlas::{
                            AddressFamily, IpvsCtrlAttrs,
                            destination::{Destination, ForwardTypeFull},
                        },
                    };
                    let destination = Destination {
                        address: destination_address(3).ip(),
                        fwd_method: ForwardTypeFull::Masquerade,
                        weight: 3,
                        upper_threshold: None,
                        lower_threshold: None,
                        port: 80,
                        family: AddressFamily::IPv4,
                    };
                    let message = IpvsServiceCtrl {
                        cmd: IpvsCtrlCmd::NewDest,
                        nlas: vec![
                            IpvsCtrlAttrs::Service(peer_service.create_nlas()),
                            IpvsCtrlAttrs::Destination(destination.create_nlas()),
                        ],
                        family_id: 34,
                    };
                    message.serialize(false).len()
                }),
            ),
            Contender(
                PEERS[1],
                Box::new(|| {
                    use nlrs::{
                        genetlink::GenericMessageBuilder,
                        ipvs::{
                            IpvsService, Protocol,
                            destination::{IpvsForwardMethod, NewDestinationMessageBuilder},
                        },
                        netlink::msg::NlMsgHeader,
                    };
                    peer_buffer.set_position(0);
                    let mut message = NewDestinationMessageBuilder::new_with_default(
                        &mut peer_buffer,
                        NlMsgHeader::new_with_seq_and_pid(0, 0),
                        IpvsService { service_address: service_address(), protocol: Protocol::TCP },
                        destination_address(3),
                    );
                    message.set_forwarding_method(IpvsForwardMethod::Masquerade);
                    message.set_weight(3);
                    message.build().expect("a vector takes every byte").1
                }),
            ),
        ],
    )
}

fn peer_service() -> netlink_packet_ipvs::ctrl::nlas::service::Service {
    use netlink_packet_ipvs::ctrl::nlas::{
        AddressFamily,
        service::{Flags, Netmask, Protocol, Scheduler, Service},
    };
    Service {
        address: service_address().ip(),
        netmask: Netmask::new(32, AddressFamily::IPv4),
        scheduler: Scheduler::WeightedLeastConnection,
        flags: Flags(0),
        port: Some(80),
        fw_mark: None,
        persistence_timeout: None,
        family: AddressFamily::IPv4,
        protocol: Protocol::TCP,
    }
}

fn decode_service(criterion: &mut Criterion) -> Row {
    let mut entry = ServiceEntry::new(service());
    entry.statistics.connections = 7;
    let dump = dump([Reply::Service(entry)]);
    Row::measure(
        criterion,
        "decode 1 service",
        dump.len(),
        vec![
            Contender(OURS, Box::new(|| ours(&dump))),
            Contender(
                PEERS[0],
                Box::new(|| {
                    use netlink_packet_ipvs::ctrl::nlas::{IpvsCtrlAttrs, service::Service};
                    old_messages(&dump, |attributes| match attributes {
                        IpvsCtrlAttrs::Service(list) => {
                            let read = Service::from_nlas(list).expect("a service");
                            black_box(read);
                        }
                        IpvsCtrlAttrs::Destination(_) => unreachable!("not in this dump"),
                    })
                }),
            ),
            Contender(
                PEERS[1],
                Box::new(|| {
                    use nlrs::{
                        genetlink::GenericMessageBuilder, ipvs::service::GetServiceMessageBuilder,
                    };
                    let mut reader = Cursor::new(&dump);
                    let read = <GetServiceMessageBuilder<'_, Vec<u8>>>::parse_response(&mut reader);
                    let read = read.expect("services");
                    black_box(read).len()
                }),
            ),
            Contender(FLOOR, Box::new(|| floor(&dump))),
        ],
    )
}

fn decode_destinations(
    criterion: &mut Criterion,
    name: &'static str,
    count: usize,
    forward: ForwardMethod,
) -> Row {
    let dump = dump((0..count).map(|index| {
        let mut entry = DestinationEntry::new(destination(index));
        entry.destination.forward = forward;
        entry.active_connections = 5;
        entry.statistics.connections = 7;
        Reply::Destination(entry)
    }));
    Row::measure(
        criterion,
        name,
        dump.len(),
        vec![
            Contender(
                OURS,
                Box::new(|| {
                    let read = ours(&dump);
                    assert_eq!(read, count);
                    read
                }),
            ),
            Contender(
                PEERS[0],
                Box::new(|| {
                    use netlink_packet_ipvs::ctrl::nlas::{
                        IpvsCtrlAttrs, destination::DestinationExtended,
                    };
                    let mut list = Vec::new();
                    old_messages(&dump, |attributes| match attributes {
                        IpvsCtrlAttrs::Destination(attributes) => {
                            let read = DestinationExtended::from_nlas(attributes);
                            list.push(read.expect("a destination"));
                        }
                        IpvsCtrlAttrs::Service(_) => unreachable!("not in this dump"),
                    });
                    assert_eq!(list.len(), count);
                    black_box(list).len()
                }),
            ),
            Contender(
                PEERS[1],
                Box::new(|| {
                    use nlrs::ipvs::destination::{IpvsDestination, read_get_destination_response};
                    let mut reader = Cursor::new(&dump);
                    let list: Vec<IpvsDestination> = read_get_destination_response(&mut reader)
                        .map(|message| message.expect("a message").expect("attributes"))
                        .map(|attributes| attributes.try_into().expect("a destination"))
                        .collect();
                    assert_eq!(list.len(), count);
                    black_box(list).len()
                }),
            ),
            Contender(FLOOR, Box::new(|| floor(&dump))),
        ],
    )
}

/// A dump as the kernel sends it: one message after the other, and the end.
fn dump(replies: impl IntoIterator<Item = Reply>) -> Vec<u8> {
    let mut dump = Vec::new();
    for reply in replies {
        let payload = append(&mut dump, 34, NLM_F_MULTIPART, reply.command(), reply.buffer_len());
        reply.emit(payload);
    }
    let done = [20, 3 | (NLM_F_MULTIPART as u32) << 16, 0, 0, 0];
    dump.extend(done.into_iter().flat_map(u32::to_ne_bytes));
    dump
}

/// The messages of a dump, without its end.
fn messages(mut dump: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*dump.first_chunk()?) as usize;
        let (message, rest) = dump.split_at(length.next_multiple_of(4));
        dump = rest;
        let is_done = message[4..6] == 3_u16.to_ne_bytes();
        (!is_done).then_some(message)
    })
}

fn ours(dump: &[u8]) -> usize {
    let list: Vec<Reply> = messages(dump)
        .map(|message| {
            Reply::parse(CommandNumber(message[16]), &message[20..], None).expect("a reply")
        })
        .collect();
    black_box(list).len()
}

fn old_messages(
    dump: &[u8],
    mut take: impl FnMut(&netlink_packet_ipvs::ctrl::nlas::IpvsCtrlAttrs),
) -> usize {
    use netlink_packet_ipvs::ctrl::IpvsServiceCtrl;
    use old_netlink_packet_core::{NetlinkBuffer, NetlinkDeserializable, NetlinkHeader};
    use old_netlink_packet_generic::GenlMessage;

    let mut count = 0;
    for message in messages(dump) {
        let header = NetlinkBuffer::new(message);
        let mut netlink_header = NetlinkHeader::default();
        netlink_header.message_type = header.message_type();
        let message =
            GenlMessage::<IpvsServiceCtrl>::deserialize(&netlink_header, header.payload());
        for attributes in &message.expect("a reply").payload.nlas {
            take(attributes);
            count += 1;
        }
    }
    count
}

/// The least that any decoder must do: find each attribute, also nested ones, and load its first byte.
fn floor(dump: &[u8]) -> usize {
    fn walk(mut bytes: &[u8], nests: &[u16], sum: &mut usize) {
        while let [a, b, c, d, ..] = *bytes {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let number = u16::from_ne_bytes([c, d]);
            let Some(value) = bytes.get(4..length) else { return };
            if nests.contains(&number) {
                let inner: &[u16] = if nests == [1, 2] { &[10, 12] } else { &[] };
                walk(value, inner, sum);
            } else {
                *sum += usize::from(value.first().copied().unwrap_or(0));
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    let mut sum = 0;
    for message in messages(dump) {
        walk(&message[20..], &[1, 2], &mut sum);
    }
    sum
}

fn print_table(rows: &[Row]) {
    let titles = ["", OURS, PEERS[0], PEERS[1], FLOOR];
    println!("\n| {} | {} | {} | {} | {} |", titles[0], titles[1], titles[2], titles[3], titles[4]);
    println!("|---|---|---|---|---|");
    for row in rows {
        let Some(ours) = estimate(row.name, OURS) else {
            // Only tested, or filtered out.
            continue;
        };
        let cell = |contender: &'static str| {
            if row.failed.contains(&contender) {
                return "fails".to_owned();
            }
            match estimate(row.name, contender) {
                Some(other) if contender == FLOOR => {
                    format!("{} (we take {:.1}x)", time(other), ours / other)
                }
                Some(other) => format!("{} ({:.1}x ours)", time(other), other / ours),
                None => "-".to_owned(),
            }
        };
        println!(
            "| {} | {} | {} | {} | {} |",
            row.name,
            time(ours),
            cell(PEERS[0]),
            cell(PEERS[1]),
            cell(FLOOR)
        );
    }
}

/// The median of this run, in nanoseconds.
fn estimate(row: &str, contender: &str) -> Option<f64> {
    // Criterion's directories.
    let row = row.replace('/', "_");
    let file = Path::new(OUTPUT).join(row).join(contender).join("new/estimates.json");
    let text = fs::read_to_string(file).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&text).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} us", n / 1e3),
        n => format!("{:.2} ms", n / 1e6),
    }
}
