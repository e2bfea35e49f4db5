//! How keys and values of maps become bytes, and how structures of them are declared.

/// Something that has a fixed number of bytes in a map.
pub trait Wire: Sized {
    /// How many.
    const SIZE: usize;

    /// Writes them.
    fn put(&self, bytes: &mut [u8]);

    /// Reads them.
    fn get(bytes: &[u8]) -> Self;

    /// As the map has it. `N` is the size.
    fn to_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.put(&mut bytes);
        bytes
    }
}

/// Keys as maps have them.
pub(super) fn keys<const K: usize>(keys: &[impl Wire]) -> Vec<[u8; K]> {
    keys.iter().map(Wire::to_bytes).collect()
}

/// Keys and values as maps have them.
pub(super) fn elements<const K: usize, const V: usize>(
    elements: impl Iterator<Item = (impl Wire, impl Wire)>,
) -> (Vec<[u8; K]>, Vec<[u8; V]>) {
    elements.map(|(key, value)| (key.to_bytes(), value.to_bytes())).unzip()
}

/// Declares structures of the header: in Rust, with the header's name and fields in their order.
macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident = $header:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl $name {
                /// How many bytes it has.
                pub const SIZE: usize = <Self as Wire>::SIZE;
            }

            impl Wire for $name {
                const SIZE: usize = 0 $(+ <$type as Wire>::SIZE)*;

                fn put(&self, bytes: &mut [u8]) {
                    let rest = bytes;
                    $(
                        let (bytes, rest) = rest.split_at_mut(<$type as Wire>::SIZE);
                        self.$field.put(bytes);
                    )*
                    assert!(rest.is_empty(), "it has another size");
                }

                fn get(bytes: &[u8]) -> Self {
                    let rest = bytes;
                    $(
                        let (bytes, rest) = rest.split_at(<$type as Wire>::SIZE);
                        let $field = <$type as Wire>::get(bytes);
                    )*
                    assert!(rest.is_empty(), "it has another size");
                    Self { $($field,)* }
                }
            }
        )*

        /// Names, fields and sizes of fields of all structures.
        #[cfg(test)]
        const STRUCTURES: &[(&str, &[(&str, usize)])] =
            &[$(($header, &[$((stringify!($field), <$type as Wire>::SIZE)),*])),*];
    };
}
pub(super) use layout;

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Wire for $type {
            const SIZE: usize = size_of::<$type>();

            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_ne_bytes());
            }

            fn get(bytes: &[u8]) -> Self {
                let mut number = [0; size_of::<$type>()];
                number.copy_from_slice(bytes);
                Self::from_ne_bytes(number)
            }
        }
    )*};
}

number!(u8 u16 u32 u64);
