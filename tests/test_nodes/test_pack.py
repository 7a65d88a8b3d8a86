def test_host_loads_the_pack(pack):
    assert pack.module.WEB_DIRECTORY == "./web"
