//! Objects that every cluster has from the start: the Services of the API and of DNS.
//!
//! They are made through the API like any other. What is there already is left as it is, so that a
//! user's changes survive a restart.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{self, ApiObject, Client, Error};

/// Which address of the range is the API's, counted from its start.
pub(crate) const API_ADDRESS: u32 = 1;
/// Which one is the DNS Service's; installers of Kubernetes agree on the tenth.
pub(crate) const DNS_ADDRESS: u32 = 10;

/// The address at `offset` from the start of a range.
pub(crate) fn address_at(range: IpNet, offset: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(start) => IpAddr::V4((u32::from(start) + offset).into()),
        IpAddr::V6(start) => IpAddr::V6((u128::from(start) + u128::from(offset)).into()),
    }
}

/// Makes what is missing. `service_ranges` are those of Services, `api` is where the server is
/// reached.
pub(super) async fn ensure(
    client: &Client,
    service_ranges: &[IpNet],
    api: (IpAddr, u16),
) -> Result<(), Error> {
    let Some(service_range) = service_ranges.first().copied() else { return Ok(()) };
    ensure_one::<ServiceCIDR>(
        client,
        json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": service_ranges } }),
    )
    .await?;
    ensure_api_service(client, service_range, api).await?;
    let dns_ip = address_at(service_range, DNS_ADDRESS);
    ensure_one::<Service>(
        client,
        json!({
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": { "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" },
            },
            "spec": {
                "clusterIP": dns_ip,
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP" },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
                ],
            },
        }),
    )
    .await
}

/// The Service `kubernetes`, and where it leads to. The latter is this server's own business: it is
/// brought up to date, should the address have changed.
async fn ensure_api_service(
    client: &Client,
    service_range: IpNet,
    (address, port): (IpAddr, u16),
) -> Result<(), Error> {
    let metadata =
        |labels: Value| json!({ "name": "kubernetes", "namespace": "default", "labels": labels });
    ensure_one::<Service>(
        client,
        json!({
            "metadata": metadata(json!({ "component": "apiserver", "provider": "kubernetes" })),
            "spec": {
                "clusterIP": address_at(service_range, API_ADDRESS),
                "ports": [{ "name": "https", "port": 443, "targetPort": port }],
            },
        }),
    )
    .await?;
    if address.is_loopback() {
        tracing::info!(%address, "nobody else reaches this server: Service kubernetes leads nowhere");
        return Ok(());
    }
    let ports = json!([{ "name": "https", "port": port, "protocol": "TCP" }]);
    ensure_current::<EndpointSlice>(
        client,
        json!({
            "metadata": metadata(json!({ "kubernetes.io/service-name": "kubernetes" })),
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": ports,
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        }),
    )
    .await?;
    ensure_current::<Endpoints>(
        client,
        json!({
            // The slice is there already: nobody need copy it from here.
            "metadata": metadata(json!({ "endpointslice.kubernetes.io/skip-mirror": "true" })),
            "subsets": [{ "addresses": [{ "ip": address }], "ports": ports }],
        }),
    )
    .await
}

/// Makes an object, or makes it what it should be.
async fn ensure_current<K: ApiObject + DeserializeOwned>(
    client: &Client,
    object: Value,
) -> Result<(), Error> {
    let object: K = K::deserialize(&object).expect("objects written here have the API's shape");
    match client::get::<K>(client, &object.object_name()).await? {
        Some(_) => client::replace(client, &object).await.map(drop),
        None => client::create(client, &object).await.map(drop),
    }
}

async fn ensure_one<K: ApiObject + DeserializeOwned>(
    client: &Client,
    object: Value,
) -> Result<(), Error> {
    let object: K = K::deserialize(&object).expect("objects written here have the API's shape");
    if client::get::<K>(client, &object.object_name()).await?.is_some() {
        return Ok(());
    }
    match client::create(client, &object).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_from_the_start_of_the_range() {
        let v4 = "10.96.0.0/16".parse().unwrap();
        assert_eq!(address_at(v4, DNS_ADDRESS).to_string(), "10.96.0.10");
        let v6 = "fd00:96::/112".parse().unwrap();
        assert_eq!(address_at(v6, API_ADDRESS).to_string(), "fd00:96::1");
    }
}
