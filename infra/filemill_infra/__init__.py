"""Infrastructure: embedded servers, migrations, images."""
