"""The whole recipe on drawn images: data, measurements and report of `make recipe`."""
