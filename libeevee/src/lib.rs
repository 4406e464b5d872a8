//! Client library and operator runtime of the eevee bus.
