//! Numbers of `linux/ip_vs.h`, under their own names.
#![allow(
    missing_docs,
    reason = "the names are those of the kernel's headers, where they are described"
)]

pub(super) const IPVS_GENL_NAME: &str = "IPVS";
pub(super) const IPVS_GENL_VERSION: u8 = 1;

pub(super) const IPVS_CMD_NEW_SERVICE: u8 = 1;
pub(super) const IPVS_CMD_SET_SERVICE: u8 = 2;
pub(super) const IPVS_CMD_DEL_SERVICE: u8 = 3;
pub(super) const IPVS_CMD_GET_SERVICE: u8 = 4;
pub(super) const IPVS_CMD_NEW_DEST: u8 = 5;
pub(super) const IPVS_CMD_SET_DEST: u8 = 6;
pub(super) const IPVS_CMD_DEL_DEST: u8 = 7;
pub(super) const IPVS_CMD_GET_DEST: u8 = 8;
pub(super) const IPVS_CMD_GET_INFO: u8 = 15;

pub(super) const IPVS_CMD_ATTR_SERVICE: u16 = 1;
pub(super) const IPVS_CMD_ATTR_DEST: u16 = 2;

pub(super) const IPVS_SVC_ATTR_AF: u16 = 1;
pub(super) const IPVS_SVC_ATTR_PROTOCOL: u16 = 2;
pub(super) const IPVS_SVC_ATTR_ADDR: u16 = 3;
pub(super) const IPVS_SVC_ATTR_PORT: u16 = 4;
pub(super) const IPVS_SVC_ATTR_FWMARK: u16 = 5;
pub(super) const IPVS_SVC_ATTR_SCHED_NAME: u16 = 6;
pub(super) const IPVS_SVC_ATTR_FLAGS: u16 = 7;
pub(super) const IPVS_SVC_ATTR_TIMEOUT: u16 = 8;
pub(super) const IPVS_SVC_ATTR_NETMASK: u16 = 9;
pub(super) const IPVS_SVC_ATTR_PE_NAME: u16 = 11;

pub(super) const IP_VS_SVC_F_PERSISTENT: u32 = 0x1;
pub(super) const IP_VS_SVC_F_HASHED: u32 = 0x2;
pub(super) const IP_VS_SVC_F_ONEPACKET: u32 = 0x4;
/// What schedulers `sh` and `mh` call `fallback`.
pub(super) const IP_VS_SVC_F_SCHED1: u32 = 0x8;
/// What schedulers `sh` and `mh` call `port`.
pub(super) const IP_VS_SVC_F_SCHED2: u32 = 0x10;
pub(super) const IP_VS_SVC_F_SCHED3: u32 = 0x20;

pub(super) const IPVS_DEST_ATTR_ADDR: u16 = 1;
pub(super) const IPVS_DEST_ATTR_PORT: u16 = 2;
pub(super) const IPVS_DEST_ATTR_FWD_METHOD: u16 = 3;
pub(super) const IPVS_DEST_ATTR_WEIGHT: u16 = 4;
pub(super) const IPVS_DEST_ATTR_U_THRESH: u16 = 5;
pub(super) const IPVS_DEST_ATTR_L_THRESH: u16 = 6;
pub(super) const IPVS_DEST_ATTR_ACTIVE_CONNS: u16 = 7;
pub(super) const IPVS_DEST_ATTR_INACT_CONNS: u16 = 8;
pub(super) const IPVS_DEST_ATTR_PERSIST_CONNS: u16 = 9;
/// Since 3.18, when destinations may be of another family than their server.
pub(super) const IPVS_DEST_ATTR_ADDR_FAMILY: u16 = 11;

pub(super) const IP_VS_CONN_F_MASQ: u32 = 0;

pub(super) const IPVS_INFO_ATTR_VERSION: u16 = 1;
