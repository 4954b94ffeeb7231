//! The real server of a command line.

use std::net::Ipv4Addr;

use ipvs_packet::{
    Destination, DestinationKey, ForwardMethod, Protocol, ServiceKey, Tunnel, TunnelFlags,
    TunnelType,
};

use super::{address::address_and_port, draft::Draft};
use crate::{
    Mistake,
    options::{Opt, mask, required},
    settings::REAL_SERVER,
};

impl Draft<'_> {
    pub(super) fn destination_key(
        &mut self,
        service: Option<ServiceKey>,
    ) -> Option<DestinationKey> {
        let (protocol, service_port) = match service {
            Some(ServiceKey::Address { protocol, port, .. }) => (protocol, port),
            _ => (Protocol::TCP, 0),
        };
        if let Some(text) = self.find(Opt::RealServer).map(required) {
            self.warn_of_port(&text);
        }
        let (address, port) = self.value(Opt::RealServer, |draft, given| {
            address_and_port(&required(given), protocol, draft.names)
        })?;
        Some(DestinationKey { address, port: port.unwrap_or(service_port) })
    }

    pub(super) fn destination(&mut self, service: Option<ServiceKey>) -> Option<Destination> {
        let key = self.destination_key(service);
        let forward = self.forward();
        let tunnel = self.tunnel(forward);
        // Without a key its options are judged all the same.
        let any = DestinationKey { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 };
        let mut destination = Destination::new(key.unwrap_or(any));
        self.set(REAL_SERVER, &mut destination);
        key?;
        destination.forward = forward?;
        destination.tunnel = tunnel?;
        let said_by_ipvsadm = self.find(Opt::Forward(None)).is_none();
        match service {
            Some(ServiceKey::Address { port, .. })
                if said_by_ipvsadm && destination.forward != ForwardMethod::MASQUERADE =>
            {
                destination.key.port = port;
            }
            _ => {}
        }
        if destination.key.family() != service?.family()
            && destination.forward != ForwardMethod::TUNNEL
        {
            let message = "only a tunnelled real server (-i) may be of another address family than \
                           its service";
            self.refuse(|option| option == Opt::RealServer, message);
        }
        Some(destination)
    }

    fn forward(&mut self) -> Option<ForwardMethod> {
        let given = self.given.iter().find(|given| matches!(given.option, Opt::Forward(_)));
        Some(match given.map(|given| given.option) {
            None => ForwardMethod::DIRECT_ROUTE,
            Some(Opt::Forward(Some(method))) => method,
            Some(_) => self.limited(Opt::Forward(None), str::parse)?,
        })
    }

    fn tunnel(&mut self, forward: Option<ForwardMethod>) -> Option<Tunnel> {
        let of_tunnels =
            |option| matches!(option, Opt::TunnelType | Opt::TunnelPort | Opt::TunnelFlags(_));
        let given: Vec<_> =
            self.given.iter().filter(|given| of_tunnels(given.option)).cloned().collect();
        if forward? != ForwardMethod::TUNNEL {
            for given in &given {
                let message = format!("{} is for tunnelled real servers (-i) only", given.typed);
                self.mistakes.push(Mistake::new(given.place.clone(), message));
            }
            return given.is_empty().then_some(Tunnel::IPIP);
        }
        let kind = match self.find(Opt::TunnelType) {
            None => TunnelType::IPIP,
            Some(_) => self.value(Opt::TunnelType, |draft, given| match required(given).text {
                "ipip" => Ok(TunnelType::IPIP),
                "gue" => Ok(TunnelType::GUE),
                "gre" => Ok(TunnelType::GRE),
                _ => {
                    let what = "\"ipip\", \"gue\", \"gre\" or an encapsulation's number";
                    draft.number(given, what, 3, 255).map(|number| TunnelType(number as u8))
                }
            })?,
        };
        let mut flags = TunnelFlags::empty();
        for given in &given {
            let refused = match given.option {
                Opt::TunnelPort => matches!(kind, TunnelType::IPIP | TunnelType::GRE),
                // What the kernel holds is said by a number, whatever the type.
                Opt::TunnelFlags(None) => {
                    flags =
                        TunnelFlags::from_bits_retain(self.value(given.option, |_, given| {
                            mask(&required(given), u16::MAX.into())
                        })? as u16);
                    false
                }
                Opt::TunnelFlags(Some(named)) => {
                    flags = named;
                    kind == TunnelType::IPIP
                        || kind == TunnelType::GRE && named == TunnelFlags::REMOTE_CHECKSUM
                }
                _ => false,
            };
            if refused {
                let message = format!("{} does not go with encapsulation {kind}", given.typed);
                self.mistakes.push(Mistake::new(given.place.clone(), message));
            }
        }
        let port = match self.find(Opt::TunnelPort) {
            None => 0,
            Some(_) => self.value(Opt::TunnelPort, |draft, given| {
                draft.number(given, "a tunnel's port", 1, u16::MAX.into())
            })? as u16,
        };
        let refuse = |_| {
            let message = "encapsulation gue needs --tun-port";
            self.refuse(|option| option == Opt::TunnelType, message);
        };
        Tunnel::new(kind, port, flags).map_err(refuse).ok()
    }
}
