package tenantca

import (
	"crypto/x509"
	"encoding/asn1"
)

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

// contentInfo and signedData are RFC 2315 §7 and §9.1, as far as a bundle of certificates needs them.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue // [0] EXPLICIT
}

type signedData struct {
	Version          int
	DigestAlgorithms asn1.RawValue // SET OF
	Content          emptyContent
	Certificates     asn1.RawValue // [0] IMPLICIT SET OF
	SignerInfos      asn1.RawValue // SET OF
}

type emptyContent struct{ Type asn1.ObjectIdentifier }

// PKCS7 writes a .p7b file: a PKCS #7 SignedData that signs nothing and holds certificates (RFC 2315 §9, "degenerate case"), in DER but for
// the set of certificates, which keeps its order, as other tools leave it: leaf first.
func PKCS7(certs ...*x509.Certificate) ([]byte, error) {
	var all []byte
	for _, c := range certs {
		all = append(all, c.Raw...)
	}
	none := asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true}
	inner, err := asn1.Marshal(signedData{
		Version: 1, DigestAlgorithms: none, Content: emptyContent{oidData}, SignerInfos: none,
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: all},
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(contentInfo{oidSignedData, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}})
}
