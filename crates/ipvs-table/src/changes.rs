//! What differs between two settings of one service or destination, in words.

use std::fmt;

use ipvs_packet::{Destination, Service};

use crate::settings::{REAL_SERVER, SERVICE, Setting};

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
        Self(Changes::between(SERVICE, before, after))
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
        Self(Changes::between(REAL_SERVER, before, after))
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
    fn between<T>(settings: &[Setting<T>], before: &T, after: &T) -> Self {
        let different = settings.iter().filter(|setting| !(setting.is_same)(before, after));
        let words = different.map(|it| (it.name, (it.words)(before), (it.words)(after)));
        Self(words.collect())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests")]

    use std::num::NonZeroU16;

    use ipvs_packet::{
        EngineName, ForwardMethod, SchedulerName, ServiceFlags, Thresholds, Tunnel, TunnelFlags,
        Weight, strategy,
    };
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
