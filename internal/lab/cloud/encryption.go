package cloud

// EncryptByDefault makes an account encrypt every new volume with key, as "EBS encryption by
// default" does ("the EBS volumes that you create are always encrypted … regardless of whether the
// snapshot was encrypted", Auto Scaling API, Ebs.Encrypted; EBS User Guide, "Encryption by
// default"). "" ends it. With a key that the caller may not use the volume vanishes (row 3).
func (a *Account) EncryptByDefault(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.defaultKey = key
}

// encrypt gives a new volume the account's key, unless it has one: that of the request or of an
// encrypted snapshot goes first (EBS User Guide, "Encryption scenarios"). mu is held.
func (a *Account) encrypt(v *Volume) {
	if a.defaultKey != "" && !v.Encrypted {
		v.Encrypted, v.KMSKeyID = true, a.defaultKey
	}
}

func getEbsEncryptionByDefault(c *call) (any, error) {
	if err := c.mayRead(); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	return &struct {
		meta
		Enabled bool `xml:"ebsEncryptionByDefault"`
	}{Enabled: a.defaultKey != ""}, nil
}

// getEbsDefaultKmsKeyId names AWS's own key when the account has chosen none (its API reference).
func getEbsDefaultKmsKeyId(c *call) (any, error) {
	if err := c.mayRead(); err != nil {
		return nil, err
	}
	a := c.account
	a.mu.Lock()
	defer a.mu.Unlock()
	key := a.defaultKey
	if key == "" {
		key = "alias/aws/ebs"
	}
	return &struct {
		meta
		Key string `xml:"kmsKeyId"`
	}{Key: key}, nil
}
