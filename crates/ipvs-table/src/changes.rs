//! What differs between two settings of one service or destination, in words.

use std::fmt;

use ipvs_packet::{Destination, ForwardMethod, Service, ServiceFlags, Tunnel, TunnelFlags};

/// What differs between two settings of a service. It displays as
/// `scheduler sh -> wrr, persistence 300 s -> none`, and as nothing where
/// [nothing differs](Self::is_empty).
///
/// The keys are not compared.
///
/// ```
/// use ipvs_packet::{SchedulerName, Service, ServiceFlags};
/// use ipvs_table::ServiceChanges;
///
/// let mut before = Service::new("-t 10.0.0.185:80".parse()?);
/// before.flags = ServiceFlags::PERSISTENT;
/// before.timeout = 300;
/// let mut after = Service::new(*before.key());
/// after.scheduler = SchedulerName::WRR;
/// let changes = ServiceChanges::between(&before, &after);
/// assert_eq!(changes.to_string(), "scheduler wlc -> wrr, persistence 300 s -> none");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceChanges(Changes);

impl ServiceChanges {
    /// Compares every setting. The kernel's own flag, `HASHED`, makes no difference.
    pub fn between(before: &Service, after: &Service) -> Self {
        let mut changes = Changes::default();
        changes.compare("scheduler", &before.scheduler, &after.scheduler);
        let persistence = |service: &Service| {
            service.flags.contains(ServiceFlags::PERSISTENT).then_some(service.timeout)
        };
        match (persistence(before), persistence(after)) {
            // Without persistence the timeout has no effect; it is compared all the same, so that
            // no difference is without words.
            (None, None) => {
                changes.compare_as("unused timeout", before.timeout, after.timeout, seconds);
            }
            (before, after) => changes.compare_as("persistence", before, after, |timeout| {
                timeout.map_or_else(|| "none".to_owned(), seconds)
            }),
        }
        changes.compare("netmask", &before.netmask(), &after.netmask());
        changes.compare_as("persistence engine", before.engine, after.engine, |engine| {
            engine.map_or_else(|| "none".to_owned(), |engine| engine.to_string())
        });
        let one_packet = |service: &Service| service.flags.contains(ServiceFlags::ONE_PACKET);
        changes.compare_as(
            "one-packet scheduling",
            one_packet(before),
            one_packet(after),
            |one_packet| if one_packet { "on" } else { "off" }.to_owned(),
        );
        // With another scheduler the same flags have another name.
        if other_flags(before) != other_flags(after) {
            changes.push(
                "scheduler flags",
                flag_list(before.scheduler_flag_names()),
                flag_list(after.scheduler_flag_names()),
            );
        }
        changes.compare_as("flags mask", before.flags_mask, after.flags_mask, |mask| {
            format!("{mask:#x}")
        });
        Self(changes)
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }
}

impl fmt::Display for ServiceChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What differs between two settings of a destination. It displays as `forwarding masquerade ->
/// direct routing, weight 1 -> 3`, and as nothing where [nothing differs](Self::is_empty).
///
/// The keys are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationChanges(Changes);

impl DestinationChanges {
    /// Compares every setting.
    pub fn between(before: &Destination, after: &Destination) -> Self {
        let mut changes = Changes::default();
        changes.compare_as("forwarding", before.forward, after.forward, forwarding);
        changes.compare("weight", &before.weight, &after.weight);
        let limit = |limit| match limit {
            0 => "none".to_owned(),
            limit => limit.to_string(),
        };
        let (old, new) = (before.thresholds, after.thresholds);
        changes.compare_as("upper threshold", old.upper(), new.upper(), limit);
        changes.compare_as("lower threshold", old.lower(), new.lower(), limit);
        changes.compare_as("encapsulation", before.tunnel, after.tunnel, encapsulation);
        Self(changes)
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }
}

impl fmt::Display for DestinationChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Settings by name, each with the words for its old and new value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Changes(Vec<(&'static str, String, String)>);

impl Changes {
    fn compare<T: PartialEq + fmt::Display>(&mut self, name: &'static str, before: &T, after: &T) {
        self.compare_as(name, before, after, T::to_string);
    }

    fn compare_as<T: PartialEq>(
        &mut self,
        name: &'static str,
        before: T,
        after: T,
        words: impl Fn(T) -> String,
    ) {
        if before != after {
            self.push(name, words(before), words(after));
        }
    }

    fn push(&mut self, name: &'static str, before: String, after: String) {
        self.0.push((name, before, after));
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, before, after)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {before} -> {after}")?;
        }
        Ok(())
    }
}

fn seconds(timeout: u32) -> String {
    format!("{timeout} s")
}

/// The flags that are neither persistence nor one-packet scheduling nor the kernel's own.
fn other_flags(service: &Service) -> ServiceFlags {
    let named = ServiceFlags::PERSISTENT | ServiceFlags::ONE_PACKET | ServiceFlags::HASHED;
    service.flags - named
}

fn flag_list(flags: impl Iterator<Item = String>) -> String {
    let list = flags.collect::<Vec<_>>().join(",");
    if list.is_empty() { "none".to_owned() } else { list }
}

fn forwarding(method: ForwardMethod) -> String {
    match method {
        ForwardMethod::MASQUERADE => "masquerade".to_owned(),
        ForwardMethod::LOCAL_NODE => "local".to_owned(),
        ForwardMethod::TUNNEL => "tunnel".to_owned(),
        ForwardMethod::DIRECT_ROUTE => "direct routing".to_owned(),
        ForwardMethod::BYPASS => "bypass".to_owned(),
        ForwardMethod(number) => number.to_string(),
    }
}

/// `ipip`, `gue port 6080`, `gre with checksum`.
fn encapsulation(tunnel: Tunnel) -> String {
    let mut words = tunnel.kind().to_string();
    if tunnel.port() != 0 {
        words += &format!(" port {}", tunnel.port());
    }
    let flags = tunnel.flags();
    if flags.contains(TunnelFlags::CHECKSUM) {
        words += " with checksum";
    }
    if flags.contains(TunnelFlags::REMOTE_CHECKSUM) {
        words += " with remote checksum";
    }
    let rest = flags - TunnelFlags::CHECKSUM - TunnelFlags::REMOTE_CHECKSUM;
    if !rest.is_empty() {
        words += &format!(" with flags {:#x}", rest.bits());
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::num::NonZeroU16;

    use ipvs_packet::{EngineName, SchedulerName, Thresholds, TunnelType, Weight, strategy};
    use proptest::prelude::*;

    use super::*;

    fn persistent(timeout: u32) -> Service {
        let mut service = Service::new("-u 10.0.0.185:5060".parse().unwrap());
        service.flags = ServiceFlags::PERSISTENT;
        service.timeout = timeout;
        service
    }

    #[test]
    fn every_setting_of_a_service_has_words() {
        let before = persistent(300);
        let mut after = before.clone();
        assert!(ServiceChanges::between(&before, &after).is_empty());
        after.scheduler = SchedulerName::SH;
        after.flags = ServiceFlags::ONE_PACKET | ServiceFlags::SH_PORT;
        after.set_netmask("255.255.255.0".parse().unwrap()).unwrap();
        after.engine = Some(EngineName::SIP);
        after.flags_mask = 0xff;
        assert_eq!(
            ServiceChanges::between(&before, &after).to_string(),
            "scheduler wlc -> sh, persistence 300 s -> none, netmask 255.255.255.255 -> \
             255.255.255.0, persistence engine none -> sip, one-packet scheduling off -> on, \
             scheduler flags none -> sh-port, flags mask 0xffffffff -> 0xff"
        );
        assert_eq!(
            ServiceChanges::between(&before, &persistent(60)).to_string(),
            "persistence 300 s -> 60 s"
        );
        let mut unused = persistent(7);
        unused.flags = ServiceFlags::empty();
        let plain = Service::new(*unused.key());
        assert_eq!(
            ServiceChanges::between(&unused, &plain).to_string(),
            "unused timeout 7 s -> 0 s"
        );
    }

    #[test]
    fn every_setting_of_a_destination_has_words() {
        let before = Destination::new("172.17.0.3:80".parse().unwrap());
        let mut after = before.clone();
        assert!(DestinationChanges::between(&before, &after).is_empty());
        after.forward = ForwardMethod::TUNNEL;
        after.weight = Weight::ZERO;
        after.thresholds = Thresholds::new(9, 3).unwrap();
        after.tunnel = Tunnel::gue(NonZeroU16::new(6080).unwrap(), TunnelFlags::CHECKSUM);
        assert_eq!(
            DestinationChanges::between(&before, &after).to_string(),
            "forwarding masquerade -> tunnel, weight 1 -> 0, upper threshold none -> 9, lower \
             threshold none -> 3, encapsulation ipip -> gue port 6080 with checksum"
        );
        let odd = Tunnel::new(TunnelType(9), 0, TunnelFlags::from_bits_retain(0xa)).unwrap();
        assert_eq!(encapsulation(odd), "9 with remote checksum with flags 0x8");
    }

    proptest! {
        #![proptest_config(crate::cases(256))]

        /// Equal settings and no words are the same.
        #[test]
        fn what_differs_has_words(
            (before, after) in strategy::service().prop_flat_map(|service| {
                let other = strategy::service();
                let same = Just(service.clone());
                (Just(service), prop_oneof![same, other])
            }),
            (old, new) in (strategy::destination(), strategy::destination()),
        ) {
            let mut after = after;
            if before.key() != after.key() {
                let mut same_key = Service::new(*before.key());
                same_key.scheduler = after.scheduler;
                same_key.flags = after.flags;
                same_key.timeout = after.timeout;
                same_key.engine = after.engine;
                same_key.flags_mask = after.flags_mask;
                after = same_key;
            }
            let changes = ServiceChanges::between(&before, &after);
            prop_assert_eq!(changes.is_empty(), before == after, "{}", changes);
            prop_assert_eq!(changes.to_string().is_empty(), before == after);
            let mut new = new;
            new.key = old.key;
            let changes = DestinationChanges::between(&old, &new);
            prop_assert_eq!(changes.is_empty(), old == new, "{}", changes);
            prop_assert!(DestinationChanges::between(&old, &old).is_empty());
        }
    }
}
