//! Rule sets of kube-proxy's shape, for a comparison where no kube-proxy is at hand.
//!
//! They follow what kube-proxy's documentation and design say of it (KEP-3866 for nftables): a
//! verdict map from Service to chain, a chain for each Service and each endpoint; in iptables, one
//! list of Services that a new connection goes through from its beginning, a chain for each Service
//! and each endpoint. Sources are marked and masqueraded at the end. Only what a connection to a
//! ClusterIP or a node port meets is here.

use std::fmt::Write;

use crate::cluster::{
    ENDPOINT_PORT, ENDPOINTS, NODE_ADDRESS, POD_RANGE, SERVICE_PORT, cluster_ip, endpoint,
    node_port,
};

/// As input of `nft -f`.
pub(super) fn nftables(services: u32) -> String {
    let mut text = String::with_capacity(services as usize * 6_000);
    text.push_str("table ip kube-proxy {\n");
    for service in 0..services {
        for index in 0..ENDPOINTS {
            let address = endpoint(service, index);
            // Writing into a String can't fail.
            let _ = writeln!(
                text,
                " chain endpoint-{service}-{index} {{ ip saddr {address} jump mark-for-masquerade\n meta l4proto tcp dnat to {address}:{ENDPOINT_PORT}\n }}"
            );
        }
        let ip = cluster_ip(service);
        let choices: Vec<String> = (0..ENDPOINTS)
            .map(|index| format!("{index} : goto endpoint-{service}-{index}"))
            .collect();
        let _ = writeln!(
            text,
            " chain service-{service} {{ ip daddr {ip} tcp dport {SERVICE_PORT} ip saddr != {POD_RANGE} jump mark-for-masquerade\n numgen random mod {ENDPOINTS} vmap {{ {} }}\n }}",
            choices.join(", ")
        );
        if node_port(service).is_some() {
            let _ = writeln!(
                text,
                " chain external-{service} {{ jump mark-for-masquerade\n goto service-{service}\n }}"
            );
        }
    }
    let all = || 0..services;
    let list = |items: Vec<String>| items.join(", ");
    let ips = list(all().map(|s| cluster_ip(s).to_string()).collect());
    let by_ip =
        all().map(|s| format!("{} . tcp . {SERVICE_PORT} : goto service-{s}", cluster_ip(s)));
    let by_port =
        all().filter_map(|s| node_port(s).map(|port| format!("tcp . {port} : goto external-{s}")));
    let _ = write!(
        text,
        r#" chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
 set cluster-ips {{ type ipv4_addr; elements = {{ {ips} }}; }}
 set nodeport-ips {{ type ipv4_addr; elements = {{ {NODE_ADDRESS} }}; }}
 map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
 map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
 map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
 map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}
 map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {} }}; }}
 chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips
  ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }}
 chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
 chain nodeport-endpoints-check {{ ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
 chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
 chain cluster-ips-check {{ ip daddr @cluster-ips reject; }}
 chain masquerading {{ meta mark and 0x4000 == 0 return
  meta mark set meta mark xor 0x4000
  masquerade fully-random; }}
 chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
 chain filter-input {{ type filter hook input priority -110; ct state new jump nodeport-endpoints-check
  ct state new jump service-endpoints-check; }}
 chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check
  ct state new jump cluster-ips-check; }}
 chain filter-output {{ type filter hook output priority -110; ct state new jump service-endpoints-check
  ct state new jump firewall-check; }}
 chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
 chain nat-output {{ type nat hook output priority -100; jump services; }}
 chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"#,
        list(by_ip.collect()),
        list(by_port.collect()),
    );
    text
}

/// As input of `iptables-restore`.
pub(super) fn iptables(services: u32) -> String {
    let mut text = String::with_capacity(services as usize * 5_000);
    text.push_str(
        "*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n-A FORWARD -j KUBE-FORWARD\n-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n",
    );
    for service in 0..services {
        let _ = writeln!(text, ":KUBE-SVC-{service} - [0:0]");
        if node_port(service).is_some() {
            let _ = writeln!(text, ":KUBE-EXT-{service} - [0:0]");
        }
        for index in 0..ENDPOINTS {
            let _ = writeln!(text, ":KUBE-SEP-{service}-{index} - [0:0]");
        }
    }
    text.push_str(
        "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    for service in 0..services {
        let ip = cluster_ip(service);
        let to = format!("-d {ip}/32 -p tcp -m tcp --dport {SERVICE_PORT}");
        let _ = writeln!(text, "-A KUBE-SERVICES {to} -j KUBE-SVC-{service}");
        let _ = writeln!(text, "-A KUBE-SVC-{service} ! -s {POD_RANGE} {to} -j KUBE-MARK-MASQ");
        for index in 0..ENDPOINTS {
            let choice = match ENDPOINTS - index {
                1 => String::new(),
                left => format!(
                    "-m statistic --mode random --probability {:.10} ",
                    1.0 / f64::from(left)
                ),
            };
            let address = endpoint(service, index);
            let chain = format!("KUBE-SEP-{service}-{index}");
            let _ = writeln!(text, "-A KUBE-SVC-{service} {choice}-j {chain}");
            let _ = writeln!(text, "-A {chain} -s {address}/32 -j KUBE-MARK-MASQ");
            let _ = writeln!(
                text,
                "-A {chain} -p tcp -m tcp -j DNAT --to-destination {address}:{ENDPOINT_PORT}"
            );
        }
        if let Some(port) = node_port(service) {
            let _ = writeln!(
                text,
                "-A KUBE-NODEPORTS -p tcp -m tcp --dport {port} -j KUBE-EXT-{service}\n-A KUBE-EXT-{service} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{service} -j KUBE-SVC-{service}"
            );
        }
    }
    text.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n");
    text
}
