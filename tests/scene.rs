//! The walkthrough's machines.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipvs_client::Client;
use libtest_mimic::Failed;
use lvs::{RealServer, VirtualService};
use netns_link::{Address, NetNs};
use testbed::{Container, DockerHost, Family, Server, page};

/// Enough for a slow emulated machine; if all works, nothing waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A docker host with the virtual address, and two pods.
pub(crate) struct Director {
    pub(crate) host: DockerHost,
    pub(crate) pods: [Container; 2],
    pub(crate) client: Client,
    pub(crate) vip: IpAddr,
}

impl Director {
    pub(crate) async fn new(family: Family) -> Result<Self, Failed> {
        let host = DockerHost::new(family).await?;
        let pods = [host.container("pod1", 3).await?, host.container("pod2", 4).await?];
        let vip = match family {
            Family::Ipv4 => "10.0.0.185".parse()?,
            Family::Ipv6 => "fd00:10::185".parse()?,
        };
        let dummy = host.links().create_dummy("dummy0").await?.link;
        host.links().add_address(&dummy, Address::host(vip).nodad()).await?;
        host.links().up(&dummy).await?;
        let client = Client::connect_in(host.namespace())?;
        Ok(Self { host, pods, client, vip })
    }
}

/// The walkthrough's machines: a director, pods that serve pages, and a client's container.
pub(crate) struct Scene {
    pub(crate) host: DockerHost,
    pub(crate) pods: [Container; 2],
    pub(crate) container: Container,
    pub(crate) client: Client,
    pub(crate) address: SocketAddr,
    _servers: [Server; 2],
}

impl Scene {
    pub(crate) async fn new(family: Family) -> Result<Self, Failed> {
        let Director { host, pods, client, vip } = Director::new(family).await?;
        let container = host.container("client", 5).await?;
        let servers = [pods[0].serve_http(80)?, pods[1].serve_http(80)?];
        let address = SocketAddr::new(vip, 80);
        Ok(Self { host, pods, container, _servers: servers, client, address })
    }

    /// The service with both pods behind it, by NAT.
    pub(crate) fn service(&self, scheduler: &str) -> VirtualService {
        VirtualService::tcp(self.address)
            .scheduler(scheduler)
            .real_servers(self.pods.iter().map(|pod| RealServer::nat((pod.address(), 80).into())))
            .build()
            .expect("the walkthrough's service is valid")
    }

    /// Fetches the page this number of times, and counts which pod answered.
    pub(crate) async fn fetch(
        &self,
        from: &NetNs,
        times: usize,
    ) -> Result<BTreeMap<String, usize>, Failed> {
        let mut answers = BTreeMap::new();
        for _ in 0..times {
            let got = testbed::http_get(from, self.address, LIMIT).await?;
            let pod = self
                .pods
                .iter()
                .find(|pod| got == page(pod.name()))
                .ok_or_else(|| format!("nobody's page: {got}"))?;
            *answers.entry(pod.name().to_owned()).or_default() += 1;
        }
        Ok(answers)
    }
}
