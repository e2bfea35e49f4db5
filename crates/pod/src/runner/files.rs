//! What a pod finds in `/etc`: `resolv.conf` and `hosts`. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use super::Config;
use crate::spec::{DnsOption, DnsPolicy, Pod};

/// `resolv.conf` of a pod (resolv.conf(5)). `node` is the text of the node's own.
pub(super) fn resolv_conf(config: &Config, pod: &Pod, node: &str) -> String {
    let domain = &config.cluster_domain;
    let asks_cluster = match pod.spec.dns_policy {
        DnsPolicy::ClusterFirst => !pod.spec.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    let inherits = !asks_cluster && pod.spec.dns_policy != DnsPolicy::None;
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    if asks_cluster && !config.cluster_dns.is_empty() {
        servers.extend(config.cluster_dns.iter().map(IpAddr::to_string));
        let namespace = &pod.metadata.namespace;
        searches.extend([
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ]);
        options.push(DnsOption { name: "ndots".to_owned(), value: Some("5".to_owned()) });
    } else if inherits || asks_cluster {
        for line in node.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => searches = words.map(str::to_owned).collect(),
                Some("options") => options.extend(words.map(|word| {
                    let (name, value) = match word.split_once(':') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (word, None),
                    };
                    DnsOption { name: name.to_owned(), value }
                })),
                _ => {}
            }
        }
    }
    if let Some(more) = &pod.spec.dns_config {
        servers.extend(more.nameservers.iter().map(IpAddr::to_string));
        searches.extend(more.searches.iter().cloned());
        for option in &more.options {
            options.retain(|held| held.name != option.name);
            options.push(option.clone());
        }
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        let words = options.iter().map(|option| match &option.value {
            Some(value) => format!("{}:{value}", option.name),
            None => option.name.clone(),
        });
        text.push_str(&format!("options {}\n", words.collect::<Vec<_>>().join(" ")));
    }
    text
}

/// `/etc/hosts` of a pod with these addresses.
pub(super) fn hosts(config: &Config, pod: &Pod, hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let full = pod.spec.subdomain.as_ref().map(|subdomain| {
        let namespace = &pod.metadata.namespace;
        format!("{hostname}.{subdomain}.{namespace}.svc.{}\t", config.cluster_domain)
    });
    for address in addresses {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{address}\t{}{hostname}", full.as_deref().unwrap_or_default());
    }
    for alias in &pod.spec.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let text = format!(
            r#"{{"metadata":{{"name":"web","namespace":"shop","uid":"u"}},"spec":{spec}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn config() -> Config {
        Config { cluster_dns: vec!["10.96.0.10".parse().unwrap()], ..Config::new("n1", "/x") }
    }

    const NODE: &str =
        "# by hand\nnameserver 192.0.2.53\nsearch example.org\noptions edns0 ndots:1\n";

    #[test]
    fn the_cluster_is_asked_first() {
        let expected = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
                        nameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(resolv_conf(&config(), &pod("{}"), NODE), expected);
        let spec = r#"{"hostNetwork":true,"dnsPolicy":"ClusterFirstWithHostNet"}"#;
        assert_eq!(resolv_conf(&config(), &pod(spec), NODE), expected);
    }

    #[test]
    fn the_nodes_own_servers_are_inherited() {
        let expected = "search example.org\nnameserver 192.0.2.53\noptions edns0 ndots:1\n";
        for spec in [r#"{"dnsPolicy":"Default"}"#, r#"{"hostNetwork":true}"#] {
            assert_eq!(resolv_conf(&config(), &pod(spec), NODE), expected, "{spec}");
        }
        let config = Config { cluster_dns: Vec::new(), ..config() };
        assert_eq!(resolv_conf(&config, &pod("{}"), NODE), expected);
    }

    #[test]
    fn additions_follow_and_options_are_replaced() {
        let spec = r#"{"dnsConfig":{"nameservers":["1.1.1.1"],"searches":["a.b"],
            "options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#;
        let text = resolv_conf(&config(), &pod(spec), NODE);
        assert!(text.contains("cluster.local a.b\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n"));
        assert!(text.ends_with("options ndots:2 edns0\n"), "{text}");
        let spec = r#"{"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"]}}"#;
        assert_eq!(resolv_conf(&config(), &pod(spec), NODE), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let spec = r#"{"subdomain":"db","hostAliases":[{"ip":"192.0.2.1","hostnames":["a","b"]}]}"#;
        let text = hosts(&config(), &pod(spec), "web", &["10.244.0.7".parse().unwrap()]);
        assert!(text.contains("\n10.244.0.7\tweb.db.shop.svc.cluster.local\tweb\n"), "{text}");
        assert!(text.ends_with("192.0.2.1\ta\tb\n"), "{text}");
    }
}
