//! Virtual services: the `SERVICE` nest (`ip_vs_genl_parse_service`, `ip_vs_genl_fill_service`).

use std::{fmt, iter};

use bitflags::bitflags;

use crate::{
    EngineName, InvalidValue, Level, Netmask, ParseError, SchedulerName, ServiceKey, Statistics,
    UnknownAttributes,
    attribute::{Attribute, Reader, Sink},
    error::Space,
    key::ServiceKeyParts,
    name::Quoted,
    number::service::{FLAGS, NETMASK, PE_NAME, SCHED_NAME, STATS, STATS64, TIMEOUT},
};

/// A virtual service: what identifies it and how it is set.
///
/// ```
/// use ipvs_packet::{SchedulerName, Service, ServiceKey};
///
/// let mut service = Service::new(ServiceKey::tcp("10.0.0.185:80".parse()?)?);
/// service.scheduler = SchedulerName::RR;
/// assert_eq!(service.to_string(), "-t 10.0.0.185:80 -s rr");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It displays as ipvsadm's options. Timeout and netmask of a service that is not persistent
/// have no effect and are not shown. A mask of the flags, which has no option in ipvsadm, is shown as
/// `--flags-mask 0x1`. Names that a shell would change are in quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Service {
    key: ServiceKey,
    /// How a destination is chosen for each new connection; wlc by default, as in ipvsadm.
    /// `IPVS_SVC_ATTR_SCHED_NAME`, `ipvsadm -s`.
    pub scheduler: SchedulerName,
    /// Flags; none by default. `IPVS_SVC_ATTR_FLAGS`.
    pub flags: ServiceFlags,
    /// The bits of [`flags`](Self::flags) that a request sets: all by default, and all in a reply.
    /// `SET_SERVICE` leaves the other bits as they are; `NEW_SERVICE` clears them.
    pub flags_mask: u32,
    /// How long a client's persistence lasts after its last connection, in seconds. It has an
    /// effect only if the service is [persistent](ServiceFlags::PERSISTENT); 0 by default.
    /// `IPVS_SVC_ATTR_TIMEOUT`, `ipvsadm -p`, whose default is 360 and whose limit is 31 days. The
    /// kernel multiplies it by its clock rate (100 to 1000 Hz) in 32 bits and does not check for an
    /// overflow, so more than 4,294,967 is not safe.
    pub timeout: u32,
    netmask: Netmask,
    /// What persistence uses instead of the client's address. None by default.
    /// `IPVS_SVC_ATTR_PE_NAME`, `ipvsadm --pe`. `SET_SERVICE` without it removes it.
    pub engine: Option<EngineName>,
}

impl Service {
    /// A service with ipvsadm's defaults: scheduler wlc, no flags, no persistence.
    pub const fn new(key: ServiceKey) -> Self {
        Self {
            key,
            scheduler: SchedulerName::WLC,
            flags: ServiceFlags::empty(),
            flags_mask: u32::MAX,
            timeout: 0,
            netmask: Netmask::host(key.family()),
            engine: None,
        }
    }

    /// What identifies the service.
    pub const fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Which clients persistence treats as one; by default every address on its own.
    pub const fn netmask(&self) -> Netmask {
        self.netmask
    }

    /// Sets which clients persistence treats as one.
    ///
    /// # Errors
    /// If the mask is not of the service's address family.
    pub fn set_netmask(&mut self, netmask: Netmask) -> Result<(), InvalidValue> {
        if netmask.family() != self.key.family() {
            return Err(InvalidValue::new(
                "netmask",
                netmask,
                "must be of the service's address family",
            ));
        }
        self.netmask = netmask;
        Ok(())
    }

    /// The settings as ipvsadm's options, without the key: `-s wlc -p 360`.
    pub fn switches(&self) -> impl fmt::Display + '_ {
        Switches(self)
    }

    /// The names of the scheduler's flags, as `ipvsadm -b` takes them: `sh-fallback`, `sh-port`,
    /// `mh-fallback` and `mh-port` with their schedulers, else `flag-1` to `flag-3`. ipvsadm has no
    /// name for the other flags that the kernel stores; here they are `flag-4` (0x40) to
    /// `flag-29` (0x80000000).
    pub fn scheduler_flag_names(&self) -> impl Iterator<Item = String> + use<> {
        let names = match self.scheduler {
            SchedulerName::SH => ["sh-fallback", "sh-port"],
            SchedulerName::MH => ["mh-fallback", "mh-port"],
            _ => ["flag-1", "flag-2"],
        };
        let mut bits = self.flags.bits() >> ServiceFlags::SCHEDULER_1.bits().trailing_zeros();
        let mut number = 0;
        iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let skipped = bits.trailing_zeros() as usize;
            number += skipped + 1;
            // In two steps, since of 32 bits no more than 31 can be shifted out at once.
            bits = bits >> skipped >> 1;
            let name = names.get(number - 1);
            Some(name.map_or_else(|| format!("flag-{number}"), ToString::to_string))
        })
    }

    /// What a request carries. HASHED belongs to the kernel, so it is not written.
    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        self.put_settings(self.flags - ServiceFlags::HASHED, self.flags_mask, out);
    }

    #[inline]
    fn put_settings(&self, flags: ServiceFlags, mask: u32, out: &mut impl Sink) {
        self.key.put(out);
        self.scheduler.put(SCHED_NAME, out);
        if let Some(engine) = &self.engine {
            engine.put(PE_NAME, out);
        }
        let [a, b, c, d] = flags.bits().to_ne_bytes();
        let [e, f, g, h] = mask.to_ne_bytes();
        out.put(FLAGS, &[a, b, c, d, e, f, g, h]);
        out.put_u32(TIMEOUT, self.timeout);
        self.netmask.put(NETMASK, out);
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.switches())
    }
}

/// What [`Service::switches`] returns.
struct Switches<'a>(&'a Service);

impl fmt::Display for Switches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(service) = self;
        write!(f, "-s {}", Quoted(service.scheduler.as_str()))?;
        if service.flags.contains(ServiceFlags::PERSISTENT) {
            write!(f, " -p {}", service.timeout)?;
            if service.netmask != Netmask::host(service.key.family()) {
                write!(f, " -M {}", service.netmask)?;
            }
        }
        if let Some(engine) = &service.engine {
            write!(f, " --pe {}", Quoted(engine.as_str()))?;
        }
        if service.flags.contains(ServiceFlags::ONE_PACKET) {
            f.write_str(" -o")?;
        }
        for (i, name) in service.scheduler_flag_names().enumerate() {
            write!(f, "{}{name}", if i == 0 { " -b " } else { "," })?;
        }
        if service.flags_mask != u32::MAX {
            write!(f, " --flags-mask {:#x}", service.flags_mask)?;
        }
        Ok(())
    }
}

/// A service as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct ServiceEntry {
    /// Identity and settings.
    pub service: Service,
    /// Counters and rates.
    #[cfg_attr(feature = "serde", serde(default))]
    pub statistics: Statistics,
    /// Attributes that this crate does not know.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "UnknownAttributes::is_empty")
    )]
    pub unknown: UnknownAttributes,
}

impl ServiceEntry {
    /// An entry without statistics.
    pub const fn new(service: Service) -> Self {
        Self {
            service,
            statistics: Statistics::new([0; 5], [0; 5]),
            unknown: UnknownAttributes::new(),
        }
    }

    /// What a reply carries: HASHED is always set.
    #[inline]
    pub(crate) fn put(&self, out: &mut impl Sink) {
        let service = &self.service;
        service.put_settings(service.flags | ServiceFlags::HASHED, service.flags_mask, out);
        self.statistics.put(STATS, STATS64, &self.unknown, out);
        out.put_encoded(self.unknown.encoded(Level::Service));
    }

    /// Reads a whole `SERVICE` nest, of a request or of a reply.
    pub(crate) fn parse(
        nest: &Attribute<'_>,
        mut unknown: UnknownAttributes,
    ) -> Result<Self, ParseError> {
        let mut reader: Reader<'_> = nest.nested(Space::Service);
        let mut key = ServiceKeyParts::default();
        let mut scheduler = None;
        let mut flags = None;
        let mut timeout = None;
        let mut netmask = None;
        let mut engine = None;
        let mut narrow = None;
        let mut wide = None;
        for attribute in reader.by_ref() {
            let attribute = attribute?;
            match attribute.number {
                SCHED_NAME => scheduler = Some(SchedulerName::parse(&attribute)?),
                FLAGS => flags = Some(parse_flags(&attribute)),
                TIMEOUT => timeout = Some(attribute.u32()?),
                NETMASK => netmask = Some(attribute),
                STATS => narrow = Some(Statistics::parse(&attribute, false, &mut unknown)?),
                // In a request, an empty name means no engine.
                PE_NAME if attribute.string()?.is_empty() => engine = None,
                PE_NAME => engine = Some(EngineName::parse(&attribute)?),
                STATS64 => wide = Some(Statistics::parse(&attribute, true, &mut unknown)?),
                _ => {
                    if !key.take(&attribute)? {
                        unknown.keep(Level::Service, &attribute)?;
                    }
                }
            }
        }
        let key = key.finish(&reader)?;
        let (flags, flags_mask) = flags.ok_or_else(|| reader.missing(FLAGS))?;
        let netmask = netmask.ok_or_else(|| reader.missing(NETMASK))?;
        Ok(Self {
            service: Service {
                key,
                scheduler: scheduler.ok_or_else(|| reader.missing(SCHED_NAME))?,
                flags,
                flags_mask,
                timeout: timeout.ok_or_else(|| reader.missing(TIMEOUT))?,
                netmask: Netmask::parse(&netmask, key.family())?,
                engine,
            },
            statistics: wide.or(narrow).unwrap_or_default(),
            unknown,
        })
    }
}

/// Reads `struct ip_vs_flags {flags, mask}`. As in the kernel, missing bytes are zero.
fn parse_flags(attribute: &Attribute<'_>) -> (ServiceFlags, u32) {
    let mut bytes = [0; 8];
    let length = attribute.value.len().min(bytes.len());
    bytes[..length].copy_from_slice(&attribute.value[..length]);
    let [a, b, c, d, e, f, g, h] = bytes;
    (
        ServiceFlags::from_bits_retain(u32::from_ne_bytes([a, b, c, d])),
        u32::from_ne_bytes([e, f, g, h]),
    )
}

/// Flags of a service: `IP_VS_SVC_F_*`. Bits without a name are kept, as the kernel keeps them.
///
/// [`HASHED`](Self::HASHED) belongs to the kernel: it is in every reply, is never written, and
/// makes no difference to `==` and `Hash`.
#[derive(Clone, Copy)]
pub struct ServiceFlags(u32);

bitflags! {
    impl ServiceFlags: u32 {
        /// A client keeps the destination of its first connection. `IP_VS_SVC_F_PERSISTENT`,
        /// `ipvsadm -p`.
        const PERSISTENT = 0x1;
        /// The service is in the kernel's table. `IP_VS_SVC_F_HASHED`.
        const HASHED = 0x2;
        /// Each datagram is scheduled on its own. Has an effect for UDP only.
        /// `IP_VS_SVC_F_ONEPACKET`, `ipvsadm -o`.
        const ONE_PACKET = 0x4;
        /// The scheduler's first flag. `IP_VS_SVC_F_SCHED1`, `ipvsadm -b flag-1`.
        const SCHEDULER_1 = 0x8;
        /// The scheduler's second flag. `IP_VS_SVC_F_SCHED2`, `ipvsadm -b flag-2`.
        const SCHEDULER_2 = 0x10;
        /// The scheduler's third flag. `IP_VS_SVC_F_SCHED3`, `ipvsadm -b flag-3`.
        const SCHEDULER_3 = 0x20;
        /// Scheduler sh: if the hashed destination takes no connections, use another one.
        /// `IP_VS_SVC_F_SCHED_SH_FALLBACK`, `ipvsadm -b sh-fallback`.
        const SH_FALLBACK = 0x8;
        /// Scheduler sh: hash the client's port too. `IP_VS_SVC_F_SCHED_SH_PORT`,
        /// `ipvsadm -b sh-port`.
        const SH_PORT = 0x10;
        /// Scheduler mh: if the hashed destination takes no connections, use another one.
        /// `IP_VS_SVC_F_SCHED_MH_FALLBACK`, `ipvsadm -b mh-fallback`.
        const MH_FALLBACK = 0x8;
        /// Scheduler mh: hash the client's port too. `IP_VS_SVC_F_SCHED_MH_PORT`,
        /// `ipvsadm -b mh-port`.
        const MH_PORT = 0x10;

        // Every other bit is valid too: the kernel stores and echoes them.
        const _ = !0;
    }
}

/// The readable forms. The first word of a bit is the one that is written.
#[cfg(feature = "serde")]
impl ServiceFlags {
    pub(crate) const WORDS: &[(&str, u32)] = &[
        ("persistent", Self::PERSISTENT.bits()),
        ("one-packet", Self::ONE_PACKET.bits()),
        ("flag-1", Self::SCHEDULER_1.bits()),
        ("flag-2", Self::SCHEDULER_2.bits()),
        ("flag-3", Self::SCHEDULER_3.bits()),
        ("sh-fallback", Self::SH_FALLBACK.bits()),
        ("sh-port", Self::SH_PORT.bits()),
        ("mh-fallback", Self::MH_FALLBACK.bits()),
        ("mh-port", Self::MH_PORT.bits()),
    ];
    pub(crate) const RULE: &str = "must be persistent, one-packet, flag-1, flag-2, flag-3, \
                                   sh-fallback, sh-port, mh-fallback, mh-port, or a number of 32 bits";
}

impl ServiceFlags {
    fn settable(self) -> u32 {
        self.bits() & !Self::HASHED.bits()
    }
}

impl PartialEq for ServiceFlags {
    fn eq(&self, other: &Self) -> bool {
        self.settable() == other.settable()
    }
}

impl Eq for ServiceFlags {}

impl std::hash::Hash for ServiceFlags {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.settable().hash(state);
    }
}

impl fmt::Debug for ServiceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceFlags(")?;
        bitflags::parser::to_writer(self, &mut *f)?;
        f.write_str(")")
    }
}

impl Default for ServiceFlags {
    fn default() -> Self {
        Self::empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_netmask_is_of_the_services_family() {
        let mut service = Service::new("-t [2001:db8::1]:80".parse().unwrap());
        let error = service.set_netmask("255.0.0.0".parse().unwrap()).unwrap_err();
        assert_eq!(error.rule(), "must be of the service's address family");
        service.set_netmask("64".parse().unwrap()).unwrap();
        assert_eq!(service.netmask().prefix_length(), Some(64));
    }

    #[test]
    fn a_service_displays_as_ipvsadm_saves_it() {
        let text = |key: &str, change: &dyn Fn(&mut Service)| {
            let mut service = Service::new(key.parse().unwrap());
            change(&mut service);
            service.to_string()
        };
        // `ipvsadm -Sn` of version 1.31, without the -A.
        assert_eq!(
            text("-t 10.0.0.185:80", &|service| {
                service.scheduler = SchedulerName::SH;
                service.flags = ServiceFlags::PERSISTENT
                    | ServiceFlags::SH_FALLBACK
                    | ServiceFlags::SH_PORT
                    | ServiceFlags::HASHED;
                service.timeout = 300;
                service.set_netmask("255.255.255.0".parse().unwrap()).unwrap();
            }),
            "-t 10.0.0.185:80 -s sh -p 300 -M 255.255.255.0 -b sh-fallback,sh-port"
        );
        assert_eq!(
            text("-u 10.0.0.186:5060", &|service| {
                service.scheduler = SchedulerName::RR;
                service.flags = ServiceFlags::PERSISTENT | ServiceFlags::ONE_PACKET;
                service.timeout = 20;
                service.engine = Some(EngineName::SIP);
            }),
            "-u 10.0.0.186:5060 -s rr -p 20 --pe sip -o"
        );
        assert_eq!(
            text("-f 10 -6", &|service| {
                service.flags = ServiceFlags::PERSISTENT;
                service.timeout = 360;
                service.set_netmask("64".parse().unwrap()).unwrap();
            }),
            "-f 10 -6 -s wlc -p 360 -M 64"
        );
        assert_eq!(
            text("-t [::]:80", &|service| {
                service.flags = ServiceFlags::SCHEDULER_3 | ServiceFlags::from_bits_retain(1 << 31);
                service.timeout = 1;
            }),
            "-t [::]:80 -s wlc -b flag-3,flag-29"
        );
    }

    #[test]
    fn flags_have_the_names_of_their_scheduler() {
        let names = |scheduler, bits| {
            let mut service = Service::new("-f 1".parse().unwrap());
            service.scheduler = scheduler;
            service.flags = ServiceFlags::from_bits_retain(bits);
            service.scheduler_flag_names().collect::<Vec<_>>().join(",")
        };
        assert_eq!(names(SchedulerName::SH, 0x38), "sh-fallback,sh-port,flag-3");
        assert_eq!(names(SchedulerName::MH, 0x18), "mh-fallback,mh-port");
        assert_eq!(names(SchedulerName::RR, 0x2a), "flag-1,flag-3");
        assert_eq!(names(SchedulerName::RR, 0x8000_0047), "flag-4,flag-29");
        assert_eq!(names(SchedulerName::RR, 0x7), "");
    }

    #[test]
    fn flags_debug_as_words() {
        let text = |flags: ServiceFlags| format!("{flags:?}");
        assert_eq!(text(ServiceFlags::empty()), "ServiceFlags()");
        assert_eq!(
            text(ServiceFlags::PERSISTENT | ServiceFlags::from_bits_retain(0x148)),
            "ServiceFlags(PERSISTENT | SCHEDULER_1 | 0x140)"
        );
        let flags = crate::TunnelFlags::CHECKSUM | crate::TunnelFlags::from_bits_retain(0x10);
        assert_eq!(format!("{flags:?}"), "TunnelFlags(CHECKSUM | 0x10)");
    }

    #[test]
    fn hashed_makes_no_difference() {
        let flags = [ServiceFlags::empty(), ServiceFlags::HASHED];
        assert_eq!(flags[0], flags[1]);
        assert_eq!(HashSet::from(flags).len(), 1);
        assert_ne!(ServiceFlags::from_bits_retain(0x40), ServiceFlags::empty());
    }
}
