"""The whole recipe on drawn pictures: data, measurements and report of `make recipe`."""
