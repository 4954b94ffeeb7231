//! From the addresses that a link has to those that it should have: pure, so that it can be tested
//! against a model of the kernel.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use nix::errno::Errno;

use super::address::{Address, Difference, Present, is_link_local};
use crate::error::Error;

/// One change to the addresses of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Add what is missing.
    Add(Address),
    /// Delete what is not wanted.
    Delete(Address),
    /// Give what is there other properties.
    Change(Address),
    /// Add again what was deleted because the kernel does not change its properties.
    Renew(Address),
    /// Add again what the kernel may have deleted together with another address.
    Restore(Address),
}

impl Edit {
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Add(address)
            | Self::Delete(address)
            | Self::Change(address)
            | Self::Renew(address)
            | Self::Restore(address) => *address,
        }
    }

    /// Whether the kernel refused because it is as the edit wants it.
    pub(crate) fn is_done(&self, error: &Error) -> bool {
        let done = match self {
            Self::Add(_) | Self::Renew(_) | Self::Restore(_) => Errno::EEXIST,
            Self::Delete(_) => Errno::EADDRNOTAVAIL,
            Self::Change(_) => return false,
        };
        error.number() == Some(done)
    }
}

/// The edits that lead from the one to the other, in the order in which they must be made.
///
/// What is missing comes before what goes, so that an address that only changes the length of its
/// prefix is never away; except for IPv6, where a link has an address only once, and for what must
/// be removed to be given other properties. In IPv4, an address takes the later ones of its network
/// with it when it goes: these come last, again.
pub(crate) fn plan(present: &[Present], wanted: &[Address]) -> Result<Vec<Edit>, Error> {
    let mut lengths = HashMap::new();
    for address in wanted.iter().filter(|address| address.ip().is_ipv6()) {
        let first = *lengths.entry(address.ip()).or_insert(address.prefix_len());
        if first != address.prefix_len() {
            let rule = "a link has an IPv6 address only once, and it is wanted with two lengths";
            return Err(Error::invalid(format_args!("address {address}"), rule));
        }
    }
    let has: HashMap<_, _> =
        present.iter().map(|present| (present.address.key(), present.address)).collect();
    let mut seen = HashSet::new();
    let wanted: Vec<_> = wanted.iter().filter(|address| seen.insert(address.key())).collect();

    let (mut added, mut changed, mut renewed) = (Vec::new(), Vec::new(), HashSet::new());
    for &address in &wanted {
        match has.get(&address.key()).map(|present| address.difference(present)) {
            None => added.push(Edit::Add(*address)),
            Some(Difference::InPlace(address)) => changed.push(Edit::Change(address)),
            Some(Difference::Anew) => {
                renewed.insert(address.key());
                added.push(Edit::Renew(*address));
            }
            Some(Difference::None) => {}
        }
    }

    let goes = |address: &Address| {
        let other_length =
            lengths.get(&address.ip()).is_some_and(|len| *len != address.prefix_len());
        let unwanted = !seen.contains(&address.key());
        renewed.contains(&address.key())
            || unwanted && (other_length || !is_link_local(address.ip()))
    };
    let (first, last): (Vec<Address>, Vec<Address>) =
        present.iter().map(|present| present.address).filter(goes).partition(|address| {
            lengths.contains_key(&address.ip()) || renewed.contains(&address.key())
        });

    // Only the first of a network takes others with it.
    let emptied: HashSet<_> = present
        .iter()
        .filter(|present| !present.secondary && goes(&present.address))
        .map(|present| network(&present.address))
        .collect();
    let restored = wanted
        .iter()
        .filter(|address| address.ip().is_ipv4() && emptied.contains(&network(address)));

    Ok(first
        .into_iter()
        .map(Edit::Delete)
        .chain(added)
        .chain(last.into_iter().map(Edit::Delete))
        .chain(restored.map(|address| Edit::Restore(**address)))
        .chain(changed)
        .collect())
}

fn network(address: &Address) -> (IpAddr, u8) {
    (address.network(), address.prefix_len())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::Scope;

    /// What the kernel does with the addresses of one link (net/ipv4/devinet.c,
    /// net/ipv6/addrconf.c), as far as it matters here.
    #[derive(Debug)]
    struct Kernel {
        present: Vec<Present>,
        promote_secondaries: bool,
    }

    impl Kernel {
        fn edit(&mut self, edit: &Edit) {
            match edit {
                Edit::Add(address) | Edit::Renew(address) | Edit::Restore(address) => {
                    self.add(*address);
                }
                Edit::Delete(address) => self.remove(*address),
                Edit::Change(address) => self.change(*address),
            }
        }

        fn add(&mut self, address: Address) {
            let same = |present: &Present| {
                present.address.ip() == address.ip()
                    && (address.ip().is_ipv6()
                        || present.address.prefix_len() == address.prefix_len())
            };
            if !self.present.iter().any(same) {
                let secondary = address.ip().is_ipv4()
                    && self.present.iter().any(|p| network(&p.address) == network(&address));
                self.present.push(Present { address, index: 1, secondary });
            }
        }

        /// `NLM_F_REPLACE`: IPv4 leaves what is of the moment of adding.
        fn change(&mut self, address: Address) {
            let key = address.key();
            let there = self.present.iter_mut().find(|present| present.address.key() == key);
            let there = there.expect("only what is there is changed");
            there.address = if address.ip().is_ipv6() {
                address
            } else {
                there.address.with_times_of(&address).with_metric(address.metric())
            };
        }

        fn remove(&mut self, address: Address) {
            let key = address.key();
            let Some(at) = self.present.iter().position(|present| present.address.key() == key)
            else {
                return;
            };
            let gone = self.present.remove(at);
            let network_of_gone = network(&gone.address);
            let mut of_network = self
                .present
                .iter_mut()
                .filter(|p| network(&p.address) == network_of_gone && address.ip().is_ipv4());
            if gone.secondary {
            } else if !self.promote_secondaries {
                self.present
                    .retain(|p| address.ip().is_ipv6() || network(&p.address) != network_of_gone);
            } else if let Some(next) = of_network.next() {
                next.secondary = false;
            }
        }

        fn addresses(&self) -> HashMap<(IpAddr, u8), Address> {
            self.present.iter().map(|present| (present.address.key(), present.address)).collect()
        }
    }

    /// Few addresses and lengths, so that they meet.
    fn address() -> impl Strategy<Value = Address> {
        let v4 = (0..12_u32, prop_oneof![Just(24_u8), Just(30), Just(32)])
            .prop_map(|(n, len)| (IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)), len));
        let v6 = (0..6_u128, prop_oneof![Just(64_u8), Just(128)])
            .prop_map(|(n, len)| (IpAddr::from(Ipv6Addr::from((0xfd_u128 << 120) + n)), len));
        let properties = (0..3_u8, 0..3_u8, 0..3_u32, any::<[bool; 3]>());
        (prop_oneof![v4, v6], properties).prop_map(
            |((ip, len), (scope, label, metric, [deprecated, limited, noprefixroute]))| {
                let mut address = Address::new(ip, len).unwrap().with_metric(metric);
                address = address.with_scope(Scope::new(scope));
                if label > 0 {
                    address = address.with_label(&format!("l{label}")).unwrap();
                }
                if limited {
                    let time = Some(Duration::from_secs(60));
                    address = address.with_lifetimes(time, time).unwrap();
                }
                if deprecated {
                    address = address.deprecated();
                }
                if noprefixroute { address.noprefixroute() } else { address }
            },
        )
    }

    fn kernel() -> impl Strategy<Value = Kernel> {
        (vec(address(), 0..16), any::<bool>()).prop_map(|(addresses, promote_secondaries)| {
            let mut kernel = Kernel { present: Vec::new(), promote_secondaries };
            addresses.into_iter().for_each(|address| kernel.add(address));
            kernel
        })
    }

    proptest! {
        #[test]
        fn leads_to_what_is_wanted(mut kernel in kernel(), wanted in vec(address(), 0..16)) {
            let Ok(edits) = plan(&kernel.present, &wanted) else {
                let mut once = HashMap::new();
                prop_assert!(wanted.iter().any(|address| address.ip().is_ipv6()
                    && *once.entry(address.ip()).or_insert(address.prefix_len())
                        != address.prefix_len()));
                return Ok(());
            };
            let mut first = HashMap::new();
            for address in &wanted {
                first.entry(address.key()).or_insert(*address);
            }
            let before = kernel.addresses();
            for edit in &edits {
                let key = edit.address().key();
                let there = first.get(&key).zip(before.get(&key));
                let difference = there.map(|(wanted, present)| wanted.difference(present));
                match edit {
                    Edit::Restore(_) => {}
                    Edit::Change(_) => {
                        prop_assert!(matches!(difference, Some(Difference::InPlace(_))));
                    }
                    _ => prop_assert!(
                        matches!(difference, None | Some(Difference::Anew)),
                        "{edit:?} touches what is right"
                    ),
                }
                kernel.edit(edit);
            }
            let after = kernel.addresses();
            prop_assert_eq!(
                after.keys().collect::<HashSet<_>>(),
                first.keys().collect::<HashSet<_>>()
            );
            // A limited lifetime is set each time.
            for edit in plan(&kernel.present, &wanted).unwrap() {
                let limited = edit.address().valid_lifetime().is_some();
                prop_assert!(matches!(edit, Edit::Change(_)) && limited, "{edit:?} again");
            }
        }
    }

    fn present(text: &str) -> Present {
        Present { address: text.parse().unwrap(), index: 1, secondary: false }
    }

    #[test]
    fn link_local_stays() {
        let edits = plan(&[present("fe80::1/64"), present("10.0.0.1/32")], &[]).unwrap();
        assert_eq!(edits, [Edit::Delete("10.0.0.1".parse().unwrap())]);
    }

    #[test]
    fn ipv6_with_another_length_goes_first() {
        let (old, new) = ("fd00::1/64", "fd00::1/128".parse().unwrap());
        let edits = plan(&[present(old)], &[new]).unwrap();
        assert_eq!(edits, [Edit::Delete(old.parse().unwrap()), Edit::Add(new)]);
        let error = plan(&[], &[old.parse().unwrap(), new]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput);
    }
}
